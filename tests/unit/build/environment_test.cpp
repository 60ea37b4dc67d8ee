#include "build/environment.hpp"
#include "build/steps.hpp"

#include <catch2/catch.hpp>

#include <map>

namespace environment_test {

using namespace nixbuild;

namespace {

build::BuildRequest request_with(std::map<std::string, std::string> environment) {
  build::BuildRequest request{store::AccountId{1},
                              model::StorePath::parse("9f2xy8znfmr9mhs8g7ihximlvi1d1wmh-dep.drv"),
                              {},
                              {}};
  model::DerivationOutput output;
  output.path = model::StorePath::parse("ygnhkm73da8rlsijix5xngqc6jvmxpjk-dep");
  request.derivation.outputs["out"] = output;
  request.derivation.platform = "x86_64-linux";
  request.derivation.environment = std::move(environment);
  return request;
}

/// What a build with these wishes finds.
sandbox::GuestJob furnished(const build::BuildRequest& request,
                            unsigned cores = 1,
                            const std::map<std::string, std::string>* impure = nullptr) {
  const model::StoreDir dir;
  sandbox::GuestJob job;
  for (const auto& [name, output] : request.derivation.outputs) {
    job.outputs.push_back({name, std::string(output.path->base_name())});
  }
  const auto options = build::read_options(request.derivation, "dep.drv");
  const build::Surroundings surroundings{dir, cores, impure};
  build::fill_environment(
      job, request, options, surroundings, build::placeholder_rewrites(dir, job.outputs));
  return job;
}

std::map<std::string, std::string> environment_of(const sandbox::GuestJob& job) {
  return {job.environment.begin(), job.environment.end()};
}

} // namespace

TEST_CASE("environment: what Nix sets before and after the derivation's own", "[build]") {
  const auto job = furnished(
      request_with(
          {{"HOME", "/mine"}, {"TMPDIR", "/elsewhere"}, {"TERM", "dumb"}, {"out", "/nix/store/x"}}),
      3);
  const std::map<std::string, std::string> expected = {{"HOME", "/mine"},
                                                       {"NIX_BUILD_CORES", "3"},
                                                       {"NIX_BUILD_TOP", "/build"},
                                                       {"NIX_LOG_FD", "2"},
                                                       {"NIX_STORE", "/nix/store"},
                                                       {"PATH", "/path-not-set"},
                                                       {"PWD", "/build"},
                                                       {"TEMP", "/build"},
                                                       {"TEMPDIR", "/build"},
                                                       {"TERM", "xterm-256color"},
                                                       {"TMP", "/build"},
                                                       {"TMPDIR", "/build"},
                                                       {"out", "/nix/store/x"}};
  CHECK(environment_of(job) == expected);
  CHECK(job.files.empty());
}

TEST_CASE("environment: builtins are told the server's settings, and no other secret", "[build]") {
  sandbox::GuestJob job;
  job.arguments = {"of", "the", "derivation"};
  build::set_up_builtin(job, nullptr);
  CHECK(job.arguments.empty());
  job.builder = "builtin:fetchurl";
  build::BuildNetwork network;
  network.netrc = "machine m login l password p\n";
  network.impure_environment = {{"https_proxy", "http://proxy:3128"}, {"TOKEN", "secret"}};
  build::set_up_builtin(job, &network);
  CHECK(job.arguments == std::vector<std::string>{"network=1",
                                                  "certificates=/etc/ssl/certs/ca-certificates.crt",
                                                  "https_proxy=http://proxy:3128",
                                                  "netrc=/build/.netrc"});
  REQUIRE(job.files.size() == 1);
  CHECK(job.files[0].name == ".netrc");
  CHECK(job.files[0].contents == network.netrc);
  sandbox::GuestJob other;
  other.builder = "builtin:unpack-channel";
  build::set_up_builtin(other, &network);
  CHECK(other.files.empty());
}

TEST_CASE("environment: passAsFile puts a value into a file with Nix's name", "[build][golden]") {
  const auto job = furnished(request_with({{"passAsFile", " big\tother "}, {"big", "contents"}}));
  const std::string name = ".attr-1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a";
  auto environment = environment_of(job);
  CHECK(environment.count("big") == 0);
  CHECK(environment["bigPath"] == "/build/" + name);
  REQUIRE(job.files.size() == 1);
  CHECK(job.files[0].name == name);
  CHECK(job.files[0].contents == "contents");
}

TEST_CASE("environment: fixed outputs get their mark and configured impure variables", "[build]") {
  auto request = request_with({{"impureEnvVars", "http_proxy NIX_X"}});
  auto& output = request.derivation.outputs["out"];
  output.method_algorithm = "sha256";
  output.hash = std::string(64, '0');
  auto environment = environment_of(furnished(request));
  CHECK(environment["NIX_OUTPUT_CHECKED"] == "1");
  CHECK(environment.at("http_proxy").empty());
  CHECK(environment.at("NIX_X").empty());
  const std::map<std::string, std::string> impure = {{"http_proxy", "http://proxy"},
                                                     {"other", "x"}};
  environment = environment_of(furnished(request, 1, &impure));
  CHECK(environment.at("http_proxy") == "http://proxy");
  CHECK(environment.at("NIX_X").empty());
  CHECK(environment.count("other") == 0);
}

TEST_CASE("environment: placeholders of outputs become their paths", "[build]") {
  const auto placeholder = model::output_placeholder("out");
  auto request = request_with({{"prefix", "--prefix=" + placeholder + " " + placeholder},
                               {"passAsFile", "text"},
                               {"text", placeholder + "/lib"}});
  request.derivation.arguments = {"-c", "cd " + placeholder};
  const auto job = furnished(request);
  const std::string out = "/nix/store/ygnhkm73da8rlsijix5xngqc6jvmxpjk-dep";
  CHECK(environment_of(job).at("prefix") == "--prefix=" + out + " " + out);
  CHECK(job.arguments == std::vector<std::string>{"-c", "cd " + out});
  REQUIRE(job.files.size() == 1);
  CHECK(job.files[0].contents == out + "/lib");
}

TEST_CASE("environment: with structured attributes there are only their files", "[build]") {
  const auto job = furnished(request_with({{"__json", R"({"name":"x","passAsFile":["a"]})"},
                                           {"out", "/nix/store/x"},
                                           {"passAsFile", "out"}}));
  const auto environment = environment_of(job);
  CHECK(environment.count("out") == 0);
  CHECK(environment.count("__json") == 0);
  CHECK(environment.at("NIX_ATTRS_SH_FILE") == "/build/.attrs.sh");
  CHECK(environment.at("NIX_ATTRS_JSON_FILE") == "/build/.attrs.json");
  CHECK(job.files.empty());
}

TEST_CASE("environment: what is not offered is refused with its reason", "[build][reject]") {
  for (const char* json : {"", R"({"__noChroot":true,"__impureHostDeps":["/usr/lib"]})"}) {
    for (const char* name : {"__noChroot", "__impureHostDeps"}) {
      CAPTURE(name, json);
      auto request = request_with({{name, "1"}});
      if (*json != '\0') {
        request = request_with({{"__json", json}});
      }
      try {
        static_cast<void>(furnished(request));
        FAIL("accepted");
      } catch (const build::BuildFailure& failure) {
        CHECK(failure.status() == model::BuildStatus::InputRejected);
        CHECK(failure.message().find("dep.drv") != std::string::npos);
      }
    }
  }
}

} // namespace environment_test
