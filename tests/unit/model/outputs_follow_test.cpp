#include "unit/model/error_code.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace outputs_follow_test {

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const StoreDir kDir;
const StorePath kOther = StorePath::parse("ffffffffffffffffffffffffffffffff-x");

StorePath drv_of(const Derivation& derivation) {
  return derivation_path(kDir, "x", derivation);
}

HashModulo no_inputs(const StorePath&) {
  return {};
}

/// With the outputs `out` and `dev` that follow from it.
Derivation honest() {
  Derivation derivation;
  derivation.outputs["out"];
  derivation.outputs["dev"];
  derivation.platform = "x86_64-linux";
  derivation.builder = "/bin/sh";
  derivation.environment = {{"out", ""}, {"dev", ""}, {"word", "one"}};
  for (const auto& [name, path] : input_addressed_paths(kDir, "x", derivation, no_inputs)) {
    derivation.outputs[name].path = path;
    derivation.environment[name] = kDir.print(path);
  }
  return derivation;
}

Derivation fixed() {
  Derivation derivation;
  auto& out = derivation.outputs["out"];
  out.method_algorithm = "sha256";
  out.hash = std::string(64, 'a');
  out.path = kOther; // until its hash is read
  out.path = make_content_addressed_path(kDir, "x", out.fixed_address(), {}, false);
  derivation.environment["out"] = kDir.print(*out.path);
  return derivation;
}

bool follow(const Derivation& derivation) {
  return outputs_follow(kDir, drv_of(derivation), derivation, no_inputs);
}

std::string refusal(const Derivation& derivation) {
  try {
    static_cast<void>(follow(derivation));
  } catch (const Error& error) {
    CHECK(error.code() == "derivation.paths");
    return error.message();
  }
  return "none";
}

} // namespace

TEST_CASE("outputs follow: what Nix made is right", "[model][golden]") {
  std::map<StorePath, Derivation> all;
  for (const auto& file : std::filesystem::directory_iterator(TEST_DATA_DIR "/model/derivations")) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    all.emplace(StorePath::parse(file.path().filename().string()), parse_derivation(kDir, text));
  }
  InputModulo modulo = [&](const StorePath& path) {
    return hash_modulo(kDir, all.at(path), false, modulo);
  };
  REQUIRE(all.size() >= 8);
  for (const auto& [path, derivation] : all) {
    CAPTURE(path.base_name());
    CHECK(outputs_follow(kDir, path, derivation, modulo));
  }
}

TEST_CASE("outputs follow: another path is refused with the right one", "[model][reject]") {
  CHECK(follow(honest()));
  auto forged = honest();
  const auto right = kDir.print(*forged.outputs["dev"].path);
  forged.outputs["dev"].path = kOther;
  forged.environment["dev"] = kDir.print(kOther);
  CHECK(refusal(forged) == "derivation '" + kDir.print(drv_of(forged)) +
                               "' has incorrect output path '" + kDir.print(kOther) +
                               "', should be '" + right + "'");
  // Other contents want other paths.
  forged = honest();
  forged.environment["word"] = "two";
  CHECK(refusal(forged).find("incorrect output path") != std::string::npos);

  CHECK(follow(fixed()));
  forged = fixed();
  forged.outputs["out"].path = kOther;
  CHECK(refusal(forged).find("should be '" + kDir.print(*fixed().outputs["out"].path)) !=
        std::string::npos);
  forged = fixed();
  forged.outputs["out"].hash = std::string(64, 'b');
  CHECK(refusal(forged).find("incorrect output path") != std::string::npos);
}

TEST_CASE("outputs follow: the variables that the hash leaves out are looked at",
          "[model][reject]") {
  auto forged = honest();
  forged.environment["dev"] = "rm -rf /";
  CHECK(input_addressed_paths(kDir, "x", forged, no_inputs).at("dev") ==
        *honest().outputs["dev"].path);
  CHECK(refusal(forged).find("has incorrect environment variable 'dev', should be '") !=
        std::string::npos);
  forged = fixed();
  forged.environment["out"] = kDir.print(kOther);
  CHECK(refusal(forged).find("incorrect environment variable 'out'") != std::string::npos);
  forged.environment.erase("out");
  CHECK(follow(forged));

  Derivation floating;
  floating.outputs["out"].method_algorithm = "r:sha256";
  CHECK(follow(floating));
  floating.environment["out"] = output_placeholder("out");
  CHECK(follow(floating));
  floating.environment["out"] = "else";
  CHECK_FALSE(follow(floating));
}

TEST_CASE("outputs follow: paths before the inputs are built are nobody's", "[model][reject]") {
  auto early = honest();
  early.input_derivations[StorePath::parse("00000000000000000000000000000000-in.drv")] = {"out"};
  const auto deferred = [](const StorePath&) {
    HashModulo modulo{{{"out", Hash()}}, true};
    return modulo;
  };
  CHECK(error_code_of([&] { return outputs_follow(kDir, drv_of(early), early, deferred); }) ==
        "derivation.deferred");
}

} // namespace outputs_follow_test
