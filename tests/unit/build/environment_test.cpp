#include "build/steps.hpp"

#include <catch2/catch.hpp>

#include <map>

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

std::map<std::string, std::string> environment_of(const sandbox::GuestJob& job) {
  return {job.environment.begin(), job.environment.end()};
}

} // namespace

TEST_CASE("environment: what Nix sets before and after the derivation's own", "[build]") {
  sandbox::GuestJob job;
  build::fill_environment(
      job,
      request_with(
          {{"HOME", "/mine"}, {"TMPDIR", "/elsewhere"}, {"TERM", "dumb"}, {"out", "/nix/store/x"}}),
      model::StoreDir(),
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

TEST_CASE("environment: passAsFile puts a value into a file with Nix's name", "[build][golden]") {
  sandbox::GuestJob job;
  build::fill_environment(job,
                          request_with({{"passAsFile", " big\tother "}, {"big", "contents"}}),
                          model::StoreDir(),
                          1);
  const std::string name = ".attr-1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a";
  auto environment = environment_of(job);
  CHECK(environment.count("big") == 0);
  CHECK(environment["bigPath"] == "/build/" + name);
  REQUIRE(job.files.size() == 1);
  CHECK(job.files[0].name == name);
  CHECK(job.files[0].contents == "contents");
}

TEST_CASE("environment: fixed outputs get their mark and empty impure variables", "[build]") {
  auto request = request_with({{"impureEnvVars", "http_proxy NIX_X"}});
  auto& output = request.derivation.outputs["out"];
  output.method_algorithm = "sha256";
  output.hash = std::string(64, '0');
  sandbox::GuestJob job;
  build::fill_environment(job, request, model::StoreDir(), 1);
  auto environment = environment_of(job);
  CHECK(environment["NIX_OUTPUT_CHECKED"] == "1");
  CHECK(environment.at("http_proxy").empty());
  CHECK(environment.at("NIX_X").empty());
}

TEST_CASE("environment: what is not offered is refused with its reason", "[build][reject]") {
  sandbox::GuestJob job;
  for (const char* name : {"__noChroot", "__json", "exportReferencesGraph"}) {
    CAPTURE(name);
    try {
      build::fill_environment(job, request_with({{name, "1"}}), model::StoreDir(), 1);
      FAIL("accepted");
    } catch (const build::BuildFailure& failure) {
      CHECK_FALSE(model::is_success(failure.status()));
      CHECK(failure.message().find("dep.drv") != std::string::npos);
    }
  }
}
