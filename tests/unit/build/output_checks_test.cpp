#include "build/content_digest.hpp"
#include "build/steps.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/nar/writer.hpp>

#include <catch2/catch.hpp>

namespace output_checks_test {

using namespace nixbuild;

namespace {

std::string nar_of(std::string_view contents, bool executable) {
  std::string nar;
  StringSink sink(nar);
  nar::Writer writer(sink);
  writer.regular(executable, contents.size());
  if (!contents.empty()) {
    writer.contents(bytes_of(contents));
  }
  writer.regular_end();
  writer.finish();
  return nar;
}

/// Empty, or why the contents are refused.
std::string verdict(model::ContentAddressMethod method, const Hash& hash, const std::string& nar) {
  const std::string name = "/nix/store/x.drv";
  try {
    const model::MethodAlgorithm how{method, hash.algorithm()};
    build::ContentDigest digest(how);
    for (const char c : nar) {
      digest.feed(bytes_of(std::string_view(&c, 1)));
    }
    build::check_fixed_output(hash, digest.finish(name), name);
  } catch (const build::BuildFailure& failure) {
    return failure.message();
  }
  return {};
}

model::PathInfo info(const std::string& base_name, const std::vector<std::string>& references) {
  model::PathInfo result{model::StorePath::parse(base_name), {}, {}, 0, {}, 0, false, {}, {}};
  for (const auto& reference : references) {
    result.references.push_back(model::StorePath::parse(reference));
  }
  model::sort_unique(result.references);
  return result;
}

const std::string kA = "00000000000000000000000000000000-a";
const std::string kB = "11111111111111111111111111111111-b";
const std::string kC = "22222222222222222222222222222222-c";

} // namespace

TEST_CASE("fixed output: right contents pass, flat and recursive", "[build]") {
  const auto flat = hash_of(HashAlgorithm::Sha1, bytes_of("hello"));
  CHECK(verdict(model::ContentAddressMethod::Flat, flat, nar_of("hello", false)).empty());
  const auto nar = nar_of("hello", true);
  CHECK(verdict(model::ContentAddressMethod::NixArchive,
                hash_of(HashAlgorithm::Sha256, bytes_of(nar)),
                nar)
            .empty());
  // Git's name for that file; whether it is executable has no part in it.
  const Hash git(HashAlgorithm::Sha1, hex_decode("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"));
  CHECK(verdict(model::ContentAddressMethod::Git, git, nar).empty());
  CHECK_FALSE(verdict(model::ContentAddressMethod::Git, git, nar_of("hallo", true)).empty());
}

TEST_CASE("fixed output: wrong contents are told with both hashes", "[build][reject]") {
  const auto wrong = hash_of(HashAlgorithm::Sha256, bytes_of("other"));
  const auto message = verdict(model::ContentAddressMethod::Flat, wrong, nar_of("hello", false));
  CHECK(message.find("hash mismatch in fixed-output derivation '/nix/store/x.drv'") == 0);
  const auto right = hash_of(HashAlgorithm::Sha256, bytes_of("hello"));
  CHECK(message.find("sha256-" + base64_encode(wrong.bytes())) != std::string::npos);
  CHECK(message.find("sha256-" + base64_encode(right.bytes())) != std::string::npos);
}

TEST_CASE("fixed output: a flat one must be a plain file", "[build][reject]") {
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of("hello"));
  CHECK_FALSE(verdict(model::ContentAddressMethod::Flat, hash, nar_of("hello", true)).empty());
}

TEST_CASE("outputs: those referred to come first", "[build]") {
  const auto order =
      build::order_of_outputs({info(kA, {kB, kA}), info(kB, {kC}), info(kC, {})}, "x");
  CHECK(order == std::vector<std::size_t>{2, 1, 0});
}

TEST_CASE("outputs: a cycle is refused by name", "[build][reject]") {
  try {
    (void)build::order_of_outputs({info(kA, {kB}), info(kB, {kC}), info(kC, {kA})}, "x.drv");
    FAIL("accepted");
  } catch (const build::BuildFailure& failure) {
    CHECK(failure.status() == model::BuildStatus::OutputRejected);
    CHECK(failure.message().find("cycle detected in build of 'x.drv'") == 0);
  }
}

} // namespace output_checks_test
