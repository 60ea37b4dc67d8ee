#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/settings.hpp>

#include <catch2/catch.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace settings_test {

using namespace nixbuild;
using server::SessionSettings;
using server::SettingId;
using server::SettingLevel;
using server::StoredLayers;

namespace {

using Words = std::vector<std::string>;

template <class Work>
Error error_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  FAIL("no error");
  throw std::logic_error("unreachable");
}

server::BuildSettings build_settings_of(const StoredLayers& layers,
                                        const Words& environment = {},
                                        const std::map<std::string, std::string>& attributes = {},
                                        const model::BuildOptions& options = {}) {
  model::BasicDerivation derivation;
  derivation.environment = attributes;
  return SessionSettings::resolve(layers, environment).for_derivation(derivation, options);
}

} // namespace

TEST_CASE("settings: a stronger level overrides all weaker ones, which are told",
          "[server][settings]") {
  StoredLayers layers;
  layers.system = {{"priority", "1"}, {"settings-from-drv-env", "true"}};
  layers.account = {{"priority", "2"}};
  layers.key = {{"priority", "3"}};
  model::BasicDerivation derivation;
  derivation.environment["NIXBUILD_PRIORITY"] = "5";
  const Words environment{"NIXBUILD_PRIORITY=4"};
  const auto session = SessionSettings::resolve(layers, environment);
  const auto explained = session.effective_for(derivation, {}).explain(SettingId::Priority);
  CHECK(explained.value == 5);
  CHECK(explained.source == SettingLevel::Derivation);
  REQUIRE(explained.overridden.size() == 5);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(explained.overridden[i].value == 4 - static_cast<int>(i));
    CHECK(explained.overridden[i].level == static_cast<SettingLevel>(4 - i));
  }
  CHECK(session.effective().explain(SettingId::Priority).source == SettingLevel::SshEnvironment);
}

TEST_CASE("settings: no level gets beyond the cap of a weaker one", "[server][settings]") {
  StoredLayers layers;
  layers.system = {{"max-cpu", "16"}, {"settings-from-drv-env", "true"}};
  layers.account = {{"max-cpu", "8"}};
  layers.key = {{"max-cpu", "32"}};
  const auto session = SessionSettings::resolve(layers, Words{"NIXBUILD_MAX_CPU=64"});
  const auto explained = session.effective().explain(SettingId::MaxCpu);
  CHECK(explained.value == 8);
  CHECK(explained.source == SettingLevel::Account);
  REQUIRE(explained.overridden.size() == 3);
  CHECK(explained.overridden[0].level == SettingLevel::SshEnvironment);
  CHECK(explained.overridden[0].value == 64);
  CHECK(build_settings_of(layers, {}, {{"NIXBUILD_MAX_CPU", "9"}}).max_cpu == 8U);
  CHECK(build_settings_of(layers, {}, {{"NIXBUILD_MAX_CPU", "2"}}).max_cpu == 2U);
  // What a client gave for itself it may give otherwise.
  CHECK(build_settings_of(layers, {"NIXBUILD_MAX_CPU=2"}, {{"NIXBUILD_MAX_CPU", "4"}}).max_cpu ==
        4U);
  // A default is none.
  CHECK(build_settings_of({}, {"NIXBUILD_MAX_BUILD_RESTARTS=9"}).max_restarts == 9);
}

TEST_CASE("settings: where 0 is unlimited a cap counts it as the most", "[server][settings]") {
  model::BuildOptions options;
  options.timeout = std::chrono::seconds(7200);
  options.max_silent_time = std::chrono::seconds(60);
  options.max_log_bytes = 0;
  StoredLayers layers;
  layers.account = {{"timeout", "1h"}, {"max-log-size", "1MiB"}};
  const auto build = build_settings_of(layers, {"NIXBUILD_TIMEOUT=0"}, {}, options);
  CHECK(build.timeout == std::chrono::seconds(3600));
  CHECK(build.max_silent_time == std::chrono::seconds(60));
  CHECK(build.max_log_bytes == kMiB);
  layers.account["timeout"] = "0";
  CHECK(build_settings_of(layers, {}, {}, options).timeout == std::chrono::seconds(7200));
  // More than any setting may say is as good as unlimited, and no error.
  options.timeout = std::chrono::seconds(1LL << 40);
  CHECK(build_settings_of({}, {}, {}, options).timeout == std::chrono::hours(365 * 24));
  options.timeout = std::chrono::seconds(-1);
  CHECK(build_settings_of({}, {}, {}, options).timeout == std::chrono::seconds(0));
}

TEST_CASE("settings: sharing of results that is off stays off", "[server][settings]") {
  StoredLayers layers;
  CHECK_FALSE(build_settings_of(layers).share_results);
  layers.account = {{"share-results", "true"}};
  CHECK(build_settings_of(layers).share_results);
  layers.system = {{"share-results", "false"}};
  layers.account = {{"share-results", "true"}};
  CHECK_FALSE(build_settings_of(layers).share_results);
}

TEST_CASE("settings: the two gates shut out what clients say", "[server][settings]") {
  const Words environment{"NIXBUILD_MIN_CPU=3", "NIXBUILD_TAG_A=1", "NIXBUILD_STATE_DIR=/x"};
  const std::map<std::string, std::string> attributes{{"NIXBUILD_MIN_MEM", "16000"},
                                                      {"NIXBUILD_TAG_B", "2"}};
  StoredLayers layers;
  auto build = build_settings_of(layers, environment, attributes);
  CHECK(build.min_cpu == 3);
  CHECK(build.min_memory_bytes == 0);
  CHECK(build.tags == server::Tags{{"A", "1"}});
  REQUIRE(build.warnings.size() == 1);
  CHECK(build.warnings[0].find("NIXBUILD_MIN_MEM") != std::string::npos);
  CHECK(build.warnings[0].find("settings-from-drv-env is off") != std::string::npos);

  layers.account = {{"settings-from-ssh-env", "false"}, {"settings-from-drv-env", "true"}};
  build = build_settings_of(layers, environment, attributes);
  CHECK(build.min_cpu == 1);
  CHECK(build.min_memory_bytes == 16000 * kMiB);
  CHECK(build.tags == server::Tags{{"B", "2"}});
  CHECK(build.warnings.empty());
  const auto session = SessionSettings::resolve(layers, environment);
  REQUIRE(session.warnings().size() == 1);
  CHECK(session.warnings()[0].find("settings-from-ssh-env is off") != std::string::npos);
  CHECK(SessionSettings::resolve(layers, Words{"NIXBUILD_STATE_DIR=/x"}).warnings().empty());
  // A shut gate lets no bad value through to be complained about either.
  CHECK(build_settings_of(layers, {"NIXBUILD_MIN_CPU=many"}).min_cpu == 1);
  CHECK(build_settings_of({}, {}, {{"NIXBUILD_MIN_CPU", "many"}}).min_cpu == 1);
  // The client may open the second one where the first one is open.
  CHECK(build_settings_of({}, {"NIXBUILD_SETTINGS_FROM_DRV_ENV=1"}, attributes).min_memory_bytes >
        0);
}

TEST_CASE("settings: variables that are no settings are ignored, strange ones with a warning",
          "[server][settings]") {
  const Words quiet{"NIXBUILD_STATE_DIR=/x",
                    "NIXBUILD_TEST_TAG=x",
                    "NIXBUILDNET_TOKEN=secret",
                    "NIXBUILDNET_OIDC_ID_TOKEN=secret",
                    "NIXBUILDNET_HOOK_GITHUB_CHECK_RUN=x",
                    "NIXBUILDER=x",
                    "NIXBUILD=x",
                    "PATH=/bin"};
  CHECK(SessionSettings::resolve({}, quiet).warnings().empty());
  const Words strange{
      "NIXBUILD_MAX_CPUS=\x1b[1m4", "NIXBUILD_WEIGHT=1000", "NIXBUILD_\x1b=x", "NIXBUILD_"};
  const auto warnings = SessionSettings::resolve({}, strange).warnings();
  REQUIRE(warnings.size() == 4);
  CHECK(warnings[0] == "NIXBUILD_MAX_CPUS is ignored: there is no such setting");
  CHECK(warnings[1] == "NIXBUILD_WEIGHT is ignored: weight can be set in system, account only");
  CHECK(warnings[2].find('\x1b') == std::string::npos);
  Words many;
  for (int i = 0; i < 1000; ++i) {
    many.push_back("NIXBUILD_X" + std::to_string(i) + "=1");
  }
  CHECK(SessionSettings::resolve({}, many).warnings().size() == 21);
  // A builder's own variables are no warning.
  StoredLayers open;
  open.account = {{"settings-from-drv-env", "true"}};
  CHECK(build_settings_of(open, {}, {{"NIXBUILD_MINE", "1"}}).warnings.empty());
  CHECK(build_settings_of({}, {}, {{"NIXBUILD_MINE", "1"}, {"name", "x"}}).warnings.empty());
}

TEST_CASE("settings: tags come from key, environment and derivation; a key's own stay",
          "[server][settings]") {
  StoredLayers layers;
  layers.account = {{"settings-from-drv-env", "true"}};
  layers.key_tags = {{"TEAM", "red"}};
  const auto build = build_settings_of(layers,
                                       {"NIXBUILD_TAG_TEAM=blue",
                                        "NIXBUILDNET_TAG_RUN=1",
                                        "NIXBUILDNET_TAG_SHA=old",
                                        "NIXBUILD_TAG_SHA=new"},
                                       {{"NIXBUILD_TAG_RUN", "2"}, {"NIXBUILD_TAG_TEAM", "green"}});
  CHECK(build.tags == server::Tags{{"RUN", "2"}, {"SHA", "new"}, {"TEAM", "red"}});
}

TEST_CASE("settings: tags out of their limits are refused", "[server][settings][reject]") {
  for (const auto& variable : {std::string("NIXBUILD_TAG_="),
                               std::string("NIXBUILD_TAG_lower=x"),
                               std::string("NIXBUILD_TAG_A B=x"),
                               "NIXBUILD_TAG_" + std::string(65, 'A') + "=x",
                               "NIXBUILD_TAG_A=" + std::string(257, 'x'),
                               std::string("NIXBUILD_TAG_A=a\nb")}) {
    CHECK(error_of([&] { (void)SessionSettings::resolve({}, Words{variable}); }).code() ==
          "settings.tag");
  }
  Words many;
  for (std::size_t i = 0; i < server::kMostTags; ++i) {
    many.push_back("NIXBUILD_TAG_T" + std::to_string(i) + "=x");
  }
  CHECK(SessionSettings::resolve({}, many).tags().size() == server::kMostTags);
  many.push_back("NIXBUILD_TAG_T0=y");
  CHECK(SessionSettings::resolve({}, many).tags().at("T0") == "y");
  many.push_back("NIXBUILD_TAG_MORE=x");
  CHECK(error_of([&] { (void)SessionSettings::resolve({}, many); }).code() == "settings.tag");
}

TEST_CASE("settings: a build gets what nothing was said about from the defaults",
          "[server][settings]") {
  const auto build = build_settings_of({});
  CHECK_FALSE(build.max_cpu);
  CHECK(build.min_cpu == 1);
  CHECK_FALSE(build.default_cpu);
  CHECK_FALSE(build.max_memory_bytes);
  CHECK(build.min_memory_bytes == 0);
  CHECK_FALSE(build.default_memory_per_cpu_bytes);
  CHECK(build.disk_bytes == 64 * kGiB);
  CHECK(build.max_restarts == 3);
  CHECK(build.grace == std::chrono::seconds(0));
  CHECK(build.timeout.count() == 0);
  CHECK(build.max_silent_time.count() == 0);
  CHECK(build.max_log_bytes == 0);
  CHECK_FALSE(build.reuse_failures);
  CHECK_FALSE(build.reuse_timeouts);
  CHECK_FALSE(build.share_results);
  CHECK(build.priority == 0);
  CHECK_FALSE(build.interactive);
  CHECK(build.tags.empty());
  CHECK(build.warnings.empty());
}

TEST_CASE("settings: a build gets every setting that is given", "[server][settings]") {
  const auto build = build_settings_of({},
                                       {"NIXBUILD_MAX_CPU=8",
                                        "NIXBUILD_MIN_CPU=2",
                                        "NIXBUILD_DEFAULT_CPU=4",
                                        "NIXBUILD_MAX_MEM=8GiB",
                                        "NIXBUILD_MIN_MEM=1000",
                                        "NIXBUILD_DEFAULT_MEM_PER_CPU=512",
                                        "NIXBUILD_DISK=200GiB",
                                        "NIXBUILD_MAX_DISK=100GiB",
                                        "NIXBUILD_MAX_BUILD_RESTARTS=1",
                                        "NIXBUILD_KEEP_BUILDS_RUNNING=true",
                                        "NIXBUILD_TIMEOUT=1h",
                                        "NIXBUILD_MAX_SILENT_TIME=5m",
                                        "NIXBUILD_MAX_LOG_SIZE=1MiB",
                                        "NIXBUILD_REUSE_BUILD_FAILURES=1",
                                        "NIXBUILD_REUSE_BUILD_TIMEOUTS=1",
                                        "NIXBUILD_PRIORITY=-3",
                                        "NIXBUILD_INTERACTIVE=true"});
  CHECK(build.max_cpu == 8U);
  CHECK(build.min_cpu == 2);
  CHECK(build.default_cpu == 4U);
  CHECK(build.max_memory_bytes == 8 * kGiB);
  CHECK(build.min_memory_bytes == 1000 * kMiB);
  CHECK(build.default_memory_per_cpu_bytes == 512 * kMiB);
  CHECK(build.disk_bytes == 100 * kGiB);
  CHECK(build.max_restarts == 1);
  CHECK_FALSE(build.grace);
  CHECK(build.timeout == std::chrono::hours(1));
  CHECK(build.max_silent_time == std::chrono::minutes(5));
  CHECK(build.max_log_bytes == kMiB);
  CHECK(build.reuse_failures);
  CHECK(build.reuse_timeouts);
  CHECK(build.priority == -3);
  CHECK(build.interactive);
  CHECK(build_settings_of({}, {"NIXBUILD_KEEP_BUILDS_RUNNING=10m"}).grace ==
        std::chrono::minutes(10));
  CHECK_FALSE(build_settings_of({}, {"NIXBUILD_KEEP_BUILDS_RUNNING=1"}).grace);
}

TEST_CASE("settings: lower bounds give way to upper ones, with a warning", "[server][settings]") {
  StoredLayers layers;
  layers.account = {{"max-cpu", "4"}, {"max-mem", "1024"}};
  const auto build = build_settings_of(
      layers, {"NIXBUILD_MIN_CPU=8", "NIXBUILD_MIN_MEM=2GiB", "NIXBUILD_DEFAULT_CPU=16"});
  CHECK(build.min_cpu == 4);
  CHECK(build.default_cpu == 4U);
  CHECK(build.min_memory_bytes == kGiB);
  CHECK(build.warnings.size() == 2);
  CHECK(build_settings_of({}, {"NIXBUILD_MIN_CPU=8", "NIXBUILD_DEFAULT_CPU=2"}).default_cpu == 8U);
}

TEST_CASE("settings: quotas are those of the account", "[server][settings]") {
  const auto none = SessionSettings::resolve({}, {}).quotas();
  CHECK(none.weight == 100);
  CHECK_FALSE(none.max_running_builds);
  CHECK_FALSE(none.max_store_bytes);
  StoredLayers layers;
  layers.system = {{"max-running-builds", "5"}, {"max-running-cpus", "32"}};
  layers.account = {{"weight", "200"},
                    {"max-running-builds", "10"},
                    {"max-running-mem", "64GiB"},
                    {"max-cpu-hours-per-month", "0"},
                    {"max-store-bytes", "1TiB"}};
  const auto quotas = SessionSettings::resolve(layers, {}).quotas();
  CHECK(quotas.weight == 200);
  CHECK(quotas.max_running_builds == 10U); // the operator sets both
  CHECK(quotas.max_running_cpus == 32U);
  CHECK(quotas.max_running_memory_bytes == 64 * kGiB);
  CHECK(quotas.max_cpu_hours_per_month == 0U);
  CHECK(quotas.max_store_bytes == 1024 * kGiB);
}

TEST_CASE("settings: an unknown name is answered with the nearest one",
          "[server][settings][reject]") {
  StoredLayers layers;
  layers.account = {{"max-cpus", "1"}};
  const auto error = error_of([&] { (void)SessionSettings::resolve(layers, {}); });
  CHECK(error.code() == "settings.unknown");
  CHECK(error.reaction() == Reaction::NotFound);
  CHECK(error.message().find("'max-cpu'") != std::string::npos);
  CHECK(error_of([] { (void)server::setting_named(std::string(5000, 'x')); }).code() ==
        "settings.unknown");
}

TEST_CASE("permissions: names are read and printed, others refused", "[server][reject]") {
  using server::Permission;
  using server::Permissions;
  CHECK(Permissions::parse("store:read, build-write").text() == "store:read build:write");
  CHECK(Permissions::parse("").text().empty());
  CHECK(Permissions::parse("none") == Permissions());
  CHECK(Permissions::parse(Permissions::all().text()) == Permissions::all());
  CHECK(Permissions::of_bits(0xff) == Permissions::all());
  const auto error = error_of([] { (void)Permissions::parse("store:read run:write"); });
  CHECK(error.code() == "permission.unknown");
  CHECK(error.message().find("account:write") != std::string::npos);
  const Permissions reader{Permission::StoreRead};
  reader.expect(Permission::StoreRead, "fetching");
  const auto missing = error_of([&] { reader.expect(Permission::StoreWrite, "uploading paths"); });
  CHECK(missing.code() == "permission.missing");
  CHECK(missing.reaction() == Reaction::Denied);
  CHECK(missing.message() ==
        "uploading paths needs the permission store:write, which this key has not got");
}

TEST_CASE("settings: the documentation is current", "[server][golden]") {
  const std::filesystem::path file = DOCS_DIR "/settings.md";
  if (std::getenv("NIXBUILD_TEST_ACCEPT") != nullptr) {
    std::ofstream(file, std::ios::binary) << server::settings_document();
  }
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  CHECK(text.str() == server::settings_document());
}

} // namespace settings_test
