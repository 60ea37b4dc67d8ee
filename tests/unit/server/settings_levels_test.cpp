// Every setting in every level it may be set in, by the way that level has; every level it may not
// be set in; and a refused value in each. Driven by the table itself.

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/settings.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <vector>

namespace settings_levels_test {

using namespace nixbuild;
using server::SettingId;
using server::SettingLevel;
using server::SettingSpec;
using server::SettingType;

namespace {

/// A value other than the default one, and the number it means.
struct Sample {
  std::string text;
  std::int64_t value = 0;
};

Sample sample_of(const SettingSpec& spec) {
  switch (spec.type) {
  case SettingType::Flag:
    return spec.default_text == "true" ? Sample{"false", 0} : Sample{"true", 1};
  case SettingType::Number:
    return spec.name == "max-build-restarts" ? Sample{"2", 2} : Sample{"7", 7};
  case SettingType::Mebibytes:
    return {"2GiB", 2048};
  case SettingType::Bytes:
    return {"64MiB", 64 * 1024 * 1024};
  case SettingType::Seconds:
    return {"15m", 900};
  case SettingType::Grace:
    return {"90s", 90};
  case SettingType::Permissions:
    return {"store:read,build-read", 5};
  }
  return {};
}

std::vector<std::string> refused_by(const SettingSpec& spec) {
  switch (spec.type) {
  case SettingType::Flag:
    return {"yes", "2", "TRUE", " true"};
  case SettingType::Number:
    return {"",
            "many",
            "1.5",
            "7x",
            std::to_string(spec.most + 1),
            std::to_string(spec.least - 1),
            "99999999999999999999"};
  case SettingType::Mebibytes:
    return {"", "-1", std::to_string(spec.least - 1), "2KiB", "9000000000GiB", "GiB"};
  case SettingType::Bytes:
    return {"", "-1", "1PiB", "9000000000GiB", "MiB"};
  case SettingType::Seconds:
    return {"", "-1", "1y", "366d", "15 m"};
  case SettingType::Grace:
    return {"forever", "-1", "366d"};
  case SettingType::Permissions:
    return {"store:read everything", "write"};
  }
  return {};
}

std::string variable_of(const SettingSpec& spec) {
  std::string name(spec.name);
  for (auto& c : name) {
    c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

/// The settings of a build for which `text` was given in `level`, by that level's own way in.
server::EffectiveSettings
given_in(SettingLevel level, const SettingSpec& spec, const std::string& text) {
  server::StoredLayers layers;
  std::vector<std::string> environment;
  model::BasicDerivation derivation;
  model::BuildOptions options;
  const std::string name(spec.name);
  switch (level) {
  case SettingLevel::System:
    layers.system =
        server::parse_config("[settings]\n" + name + " = \"" + text + "\"\n", "test.toml").settings;
    break;
  case SettingLevel::Account:
    layers.account[name] = text;
    break;
  case SettingLevel::Key:
    layers.key[name] = text;
    break;
  case SettingLevel::SshEnvironment:
    environment.push_back("NIXBUILD_" + variable_of(spec) + "=" + text);
    break;
  case SettingLevel::Derivation:
    layers.account["settings-from-drv-env"] = "true";
    derivation.environment["NIXBUILD_" + variable_of(spec)] = text;
    break;
  case SettingLevel::Client: {
    const auto value = server::parse_setting(spec, level, text);
    options.timeout = std::chrono::seconds(spec.id == SettingId::Timeout ? value : 0);
    options.max_silent_time = std::chrono::seconds(spec.id == SettingId::MaxSilentTime ? value : 0);
    options.max_log_bytes =
        spec.id == SettingId::MaxLogSize ? static_cast<std::uint64_t>(value) : 0;
    break;
  }
  case SettingLevel::BuiltIn:
    break;
  }
  return server::SessionSettings::resolve(layers, environment).effective_for(derivation, options);
}

Error error_of(SettingLevel level, const SettingSpec& spec, const std::string& text) {
  try {
    (void)given_in(level, spec, text);
  } catch (const Error& error) {
    return error;
  }
  FAIL(spec.name << " in " << name_of(level) << " took '" << text << "'");
  throw std::logic_error("unreachable");
}

std::vector<SettingLevel> levels() {
  return {SettingLevel::System,
          SettingLevel::Account,
          SettingLevel::Key,
          SettingLevel::SshEnvironment,
          SettingLevel::Derivation,
          SettingLevel::Client};
}

} // namespace

TEST_CASE("settings: each can be set in each level it is allowed in", "[server][settings]") {
  for (const auto& spec : server::settings_table()) {
    const auto sample = sample_of(spec);
    for (const auto level : levels()) {
      if (!spec.allowed_at(level)) {
        continue;
      }
      CAPTURE(spec.name, name_of(level), sample.text);
      const auto explained = given_in(level, spec, sample.text).explain(spec.id);
      CHECK(explained.value == sample.value);
      CHECK(explained.source == level);
      REQUIRE(explained.overridden.size() == (spec.default_text.empty() ? 0U : 1U));
      if (!explained.overridden.empty()) {
        CHECK(explained.overridden[0].level == SettingLevel::BuiltIn);
        CHECK(explained.overridden[0].value != sample.value);
      }
    }
  }
}

TEST_CASE("settings: each refuses bad values in each level, by name",
          "[server][settings][reject]") {
  for (const auto& spec : server::settings_table()) {
    for (const auto level : levels()) {
      if (!spec.allowed_at(level)) {
        continue;
      }
      for (const auto& text : refused_by(spec)) {
        CAPTURE(spec.name, name_of(level), text);
        const auto error = error_of(level, spec, text);
        CHECK(error.code() == (level == SettingLevel::System ? "config.value" : "settings.value"));
        CHECK(error.message().find(spec.name) != std::string::npos);
        CHECK(error.message().find(name_of(level)) != std::string::npos);
        CHECK(error.message().find("'" + text + "'") != std::string::npos);
        CHECK(error.message().find(server::allowed_text(spec)) != std::string::npos);
      }
    }
  }
}

TEST_CASE("settings: each is refused or ignored in the levels it is not allowed in",
          "[server][settings][reject]") {
  for (const auto& spec : server::settings_table()) {
    const auto sample = sample_of(spec);
    for (const auto level : levels()) {
      if (spec.allowed_at(level)) {
        continue;
      }
      CAPTURE(spec.name, name_of(level));
      server::EffectiveSettings settings;
      try {
        settings.set(level, spec, sample.text);
        FAIL("taken");
      } catch (const Error& error) {
        CHECK(error.code() == "settings.level");
        CHECK(error.message().find(spec.name) != std::string::npos);
        const auto all = levels();
        const auto allowed = std::find_if(
            all.begin(), all.end(), [&](auto other) { return spec.allowed_at(other); });
        CHECK(error.message().find("in: " + std::string(name_of(*allowed))) != std::string::npos);
      }
      if (level == SettingLevel::Key) {
        CHECK(error_of(level, spec, sample.text).code() == "settings.level");
      } else if (level == SettingLevel::SshEnvironment || level == SettingLevel::Derivation) {
        CHECK(given_in(level, spec, sample.text).explain(spec.id).source != level);
      }
    }
  }
}

TEST_CASE("settings: nixbuild.net's spelling of variables works as well", "[server][settings]") {
  for (const auto& spec : server::settings_table()) {
    if (!spec.allowed_at(SettingLevel::SshEnvironment)) {
      continue;
    }
    CAPTURE(spec.name);
    const auto sample = sample_of(spec);
    const auto theirs = "NIXBUILDNET_" + variable_of(spec) + "=";
    const auto ours = "NIXBUILD_" + variable_of(spec) + "=";
    const std::vector<std::string> alone{theirs + sample.text};
    CHECK(server::SessionSettings::resolve({}, alone).effective().value(spec.id) == sample.value);
    // Whatever the order, ours wins; theirs must still be a value.
    const auto other = server::print_setting(spec, spec.most);
    const std::vector<std::string> first{ours + sample.text, theirs + other};
    const std::vector<std::string> second{theirs + other, ours + sample.text};
    CHECK(server::SessionSettings::resolve({}, first).effective().value(spec.id) == sample.value);
    CHECK(server::SessionSettings::resolve({}, second).effective().value(spec.id) == sample.value);
  }
}

TEST_CASE("settings: what is printed is read back as the same value", "[server][roundtrip]") {
  for (const auto& spec : server::settings_table()) {
    for (const auto value : {spec.least,
                             spec.most,
                             sample_of(spec).value,
                             spec.type == SettingType::Grace ? server::kForever : spec.least,
                             std::max<std::int64_t>(1, spec.least)}) {
      const auto text = server::print_setting(spec, value);
      CAPTURE(spec.name, text);
      CHECK(server::parse_setting(spec, SettingLevel::Account, text) == value);
    }
    CHECK(spec.default_text.empty() != spec.unset.empty());
    CHECK(server::find_setting(spec.name) == &spec);
    CHECK(&server::spec_of(spec.id) == &spec);
  }
}

} // namespace settings_levels_test
