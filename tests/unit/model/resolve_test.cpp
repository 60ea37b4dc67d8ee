#include "unit/model/error_code.hpp"

#include <nixbuild/model/build.hpp>
#include <nixbuild/model/resolve.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const StoreDir kResolveDir;
const StorePath kInput = StorePath::parse("00000000000000000000000000000000-in.drv");
const StorePath kMade = StorePath::parse("11111111111111111111111111111111-in-lib");
const StorePath kSelf = StorePath::parse("22222222222222222222222222222222-x.drv");

Derivation with_input(const DerivationOutput& output) {
  Derivation derivation;
  derivation.outputs["out"] = output;
  derivation.platform = "x86_64-linux";
  derivation.builder = input_placeholder(kInput, "lib") + "/bin/sh";
  derivation.arguments = {"-c", "echo " + input_placeholder(kInput, "lib")};
  derivation.environment["dep"] = input_placeholder(kInput, "lib");
  derivation.environment["out"] = "";
  derivation.input_derivations[kInput] = {"lib"};
  return derivation;
}

const InputPaths kInputs{{kInput, {{"lib", kMade}}}};

} // namespace

TEST_CASE("resolve: a floating derivation becomes one whose inputs are paths", "[model]") {
  DerivationOutput output;
  output.method_algorithm = "r:sha256";
  const auto derivation = with_input(output);
  CHECK(must_be_resolved(derivation));
  const auto [path, resolved] = resolve_derivation(kResolveDir, kSelf, derivation, kInputs);
  CHECK(resolved.input_sources == StorePaths{kMade});
  CHECK(resolved.builder == kResolveDir.print(kMade) + "/bin/sh");
  CHECK(resolved.arguments.at(1) == "echo " + kResolveDir.print(kMade));
  CHECK(resolved.environment.at("dep") == kResolveDir.print(kMade));
  CHECK(resolved.outputs.at("out") == output);
  Derivation whole;
  static_cast<BasicDerivation&>(whole) = resolved;
  CHECK(path == derivation_path(kResolveDir, "x", whole));
  CHECK(error_code_of([&] { return resolve_derivation(kResolveDir, kSelf, derivation, {}); }) ==
        "derivation.outputs");
}

TEST_CASE("resolve: a deferred derivation gets its paths", "[model]") {
  const auto [path, resolved] = resolve_derivation(kResolveDir, kSelf, with_input({}), kInputs);
  CHECK(path != kSelf);
  const auto& made = resolved.outputs.at("out").path;
  REQUIRE(made);
  CHECK(made->name() == "x");
  CHECK(resolved.environment.at("out") == kResolveDir.print(*made));
  CHECK(derivation_kind(resolved) == OutputKind::InputAddressed);
}

TEST_CASE("resolve: a derivation with known paths stays what it is", "[model]") {
  DerivationOutput output;
  output.path = StorePath::parse("33333333333333333333333333333333-x");
  const auto derivation = with_input(output);
  CHECK_FALSE(must_be_resolved(derivation));
  const auto resolved = resolve_derivation(kResolveDir, kSelf, derivation, kInputs);
  CHECK(resolved.path == kSelf);
  CHECK(resolved.derivation.outputs.at("out").path == output.path);
}

TEST_CASE("realisation: what is signed", "[model]") {
  CHECK(realisation_fingerprint(Hash(), "dev", kMade) ==
        R"({"dependentRealisations":{},"id":"sha256:)" + std::string(64, '0') +
            R"(!dev","outPath":"11111111111111111111111111111111-in-lib"})");
}
