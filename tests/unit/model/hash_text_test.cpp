#include "unit/model/error_code.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const std::string kNarHex =
    "0d000000000000006e69782d617263686976652d310000000100000000000000280000000000000004000000000000"
    "0074797065000000000700000000000000726567756c6172000800000000000000636f6e74656e7473050000000000"
    "000068656c6c6f00000001000000000000002900000000000000";

} // namespace

TEST_CASE("hash text: the archive of a file 'hello'", "[model][golden]") {
  const auto nar = hex_decode(kNarHex);
  CHECK(nar.size() == 120);
  const auto hash = hash_of(HashAlgorithm::Sha256, nar);
  CHECK(hash_hex(hash) == "0a430879c266f8b57f4092a0f935cf3facd48bbccde5760d4748ca405171e969");
  CHECK(hash_nix32(hash) == "sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa");
}

TEST_CASE("hash text: the archive of an empty directory", "[model][golden]") {
  std::string nar;
  for (const std::string_view token : {"nix-archive-1", "(", "type", "directory", ")"}) {
    nar.push_back(static_cast<char>(token.size()));
    nar.append(7, '\0');
    nar += token;
    nar.append((8 - token.size() % 8) % 8, '\0');
  }
  CHECK(nar.size() == 96);
  CHECK(hash_nix32(hash_of(HashAlgorithm::Sha256, bytes_of(nar))) ==
        "sha256:0sjjj9z1dhilhpc8pq4154czrb79z9cm044jvn75kxcjv6v5l2m5");
}

TEST_CASE("hash text: every form of every algorithm reads back", "[model][roundtrip]") {
  for (const auto algorithm :
       {HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512}) {
    const auto hash = hash_of(algorithm, bytes_of("x"));
    const std::string name(name_of(algorithm));
    const auto base32 = hash_nix32(hash).substr(name.size() + 1);
    const auto base64 = hash_sri(hash).substr(name.size() + 1);
    for (const auto& digest : {hash_hex(hash), base32, base64}) {
      CHECK(parse_hash(name + ":" + digest) == hash);
      CHECK(parse_hash(name + ":" + digest, algorithm) == hash);
      CHECK(parse_hash(digest, algorithm) == hash);
    }
    CHECK(parse_hash(hash_sri(hash)) == hash);
  }
}

TEST_CASE("hash text: rejects what is no hash", "[model][reject]") {
  const auto hex = hash_hex(Hash());
  const auto code = [](const std::string& text, std::optional<HashAlgorithm> assumed = {}) {
    return error_code_of([&] { return parse_hash(text, assumed); });
  };
  CHECK(code(hex) == "hash.algorithm");
  CHECK(code("blake3:" + hex) == "hash.algorithm");
  CHECK(code("sha256:" + hex, HashAlgorithm::Sha1) == "hash.algorithm");
  CHECK(code("sha256:" + hex.substr(1)) == "hash.length");
  CHECK(code("sha256-" + hex) == "hash.length");
  CHECK(code("", HashAlgorithm::Sha256) == "hash.length");
  CHECK(code("sha256:" + std::string(64, 'z')) == "encoding.hex");
  CHECK(code("sha256:" + std::string(52, 'e')) == "encoding.nix32");
  CHECK(code("sha256:" + std::string(44, '*')) == "encoding.base64");
}
