#include "unit/model/error_code.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

Hash hello(HashAlgorithm algorithm) {
  return hash_of(algorithm, bytes_of("hello"));
}

std::string path_of(const std::string& name, const ContentAddress& address) {
  return make_content_addressed_path(StoreDir(), name, address, {}, false).base_name();
}

} // namespace

TEST_CASE("content address: every form reads and prints", "[model][roundtrip]") {
  const auto sha256 = hash_nix32(hello(HashAlgorithm::Sha256));
  const auto sha1 = hash_nix32(hello(HashAlgorithm::Sha1));
  for (const auto& text : {"text:" + sha256,
                           "fixed:" + sha256,
                           "fixed:r:" + sha256,
                           "fixed:r:" + sha1,
                           "fixed:git:" + sha1}) {
    CHECK(print(parse_content_address(text)) == text);
  }
  for (const std::string text :
       {"sha256", "r:sha1", "text:sha256", "git:sha1", "md5", "r:sha512"}) {
    CHECK(print(parse_method_algorithm(text)) == text);
  }
}

TEST_CASE("content address: rejects other forms", "[model][reject]") {
  const auto sha256 = hash_nix32(hello(HashAlgorithm::Sha256));
  const auto code = [](const std::string& text) {
    return error_code_of([&] { return parse_content_address(text); });
  };
  CHECK(code("") == "content-address.form");
  CHECK(code(sha256) == "content-address.form");
  CHECK(code("fixed:text:" + sha256) == "content-address.form");
  CHECK(code("fixed:" + sha256.substr(7)) == "content-address.form");
  CHECK(code("fixed:" + hash_sri(hello(HashAlgorithm::Sha256))) == "content-address.form");
  CHECK(code("text:" + hash_nix32(hello(HashAlgorithm::Sha1))) == "content-address.form");
  CHECK(code("fixed:x:" + sha256) == "hash.algorithm");
  CHECK(code("fixed:sha256:abc") == "hash.length");
  for (const std::string text : {"", "x", "r:", "text:sha1", "r:r:sha256", "sha256 "}) {
    CHECK(error_code_of([&] { return parse_method_algorithm(text); }) == "hash.algorithm");
  }
}

TEST_CASE("content address: paths of flat files", "[model][golden]") {
  const auto flat = [](HashAlgorithm algorithm) {
    return path_of("hello", {ContentAddressMethod::Flat, hello(algorithm)});
  };
  CHECK(flat(HashAlgorithm::Sha256) == "3fhdhfqli6qm669f7sz8d8v6xz24zrqc-hello");
  CHECK(flat(HashAlgorithm::Md5) == "cjjgh51g19my6qswi7m4371f5892dxs9-hello");
  CHECK(flat(HashAlgorithm::Sha1) == "v0nrf1zmxrpzqx6hw27z2qp9glpisrpz-hello");
  CHECK(flat(HashAlgorithm::Sha512) == "9dsyz1y7fz5x2b2p5qc3a34qbjd2v83x-hello");
}

TEST_CASE("content address: paths of archives", "[model][golden]") {
  const auto nar = hex_decode(
      "0d000000000000006e69782d617263686976652d31000000010000000000000028000000000000000400000000"
      "00000074797065000000000700000000000000726567756c6172000800000000000000636f6e74656e74730500"
      "00000000000068656c6c6f00000001000000000000002900000000000000");
  CHECK(path_of("hello", {ContentAddressMethod::NixArchive, hash_of(HashAlgorithm::Sha256, nar)}) ==
        "yqi18hzk6wxzj2ksv7x9k8rnnzwirzz9-hello");
  CHECK(path_of("hello", {ContentAddressMethod::NixArchive, hash_of(HashAlgorithm::Sha1, nar)}) ==
        "9yw8zg8zabkb6xrhdxm7shpq2cjcx9ky-hello");
}

TEST_CASE("content address: a path that refers to itself", "[model][golden]") {
  const auto address =
      parse_content_address("fixed:r:sha256:18nrsqhkazc4vfyn8gn0kw60psmf29197n1hf96afkpyqyha06bx");
  CHECK(make_content_addressed_path(StoreDir(), "cadrv", address, {}, true).base_name() ==
        "gszi1nxgyf69xnd84jqyry5yjhqfmnfr-cadrv");
}

TEST_CASE("content address: refuses references where the method has none", "[model][reject]") {
  const StoreDir dir;
  const auto other = StorePath::parse("7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt");
  const auto code = [&](ContentAddressMethod method,
                        HashAlgorithm algorithm,
                        const StorePaths& references,
                        bool self) {
    return error_code_of([&] {
      return make_content_addressed_path(dir, "x", {method, hello(algorithm)}, references, self);
    });
  };
  using enum ContentAddressMethod;
  CHECK(code(Text, HashAlgorithm::Sha256, {other}, false).empty());
  CHECK(code(NixArchive, HashAlgorithm::Sha256, {other}, true).empty());
  CHECK(code(Text, HashAlgorithm::Sha256, {}, true) == "content-address.references");
  CHECK(code(Flat, HashAlgorithm::Sha256, {other}, false) == "content-address.references");
  CHECK(code(NixArchive, HashAlgorithm::Sha1, {}, true) == "content-address.references");
  CHECK(code(Git, HashAlgorithm::Sha1, {other}, false) == "content-address.references");
}
