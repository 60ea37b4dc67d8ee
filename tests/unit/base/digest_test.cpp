#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/ed25519.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;

TEST_CASE("digest: known values of each algorithm", "[base][golden]") {
  const auto hex = [](HashAlgorithm algorithm) {
    return hex_encode(hash_of(algorithm, bytes_of("abc")).bytes());
  };
  CHECK(hex(HashAlgorithm::Md5) == "900150983cd24fb0d6963f7d28e17f72");
  CHECK(hex(HashAlgorithm::Sha1) == "a9993e364706816aba3e25717850c26c9cd0d89d");
  CHECK(hex(HashAlgorithm::Sha256) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(HashAlgorithm::Sha512).substr(0, 32) == "ddaf35a193617abacc417349ae204131");
}

TEST_CASE("digest: pieces give the same as the whole", "[base][property]") {
  const std::string text(10'000, 'x');
  Hasher hasher(HashAlgorithm::Sha256);
  for (std::size_t i = 0; i < text.size(); i += 77) {
    hasher.update(bytes_of(std::string_view(text).substr(i, 77)));
  }
  CHECK(hasher.finish() == hash_of(HashAlgorithm::Sha256, bytes_of(text)));
}

TEST_CASE("digest: a hash of the wrong length is refused", "[base][reject]") {
  const Bytes short_digest(31);
  CHECK_THROWS_AS(Hash(HashAlgorithm::Sha256, short_digest), Error);
  CHECK(hash_algorithm_of("sha256") == HashAlgorithm::Sha256);
  CHECK_FALSE(hash_algorithm_of("SHA256"));
}

TEST_CASE("ed25519: sign and verify; a changed message or key fails", "[base]") {
  std::array<std::uint8_t, 32> seed{};
  for (std::size_t i = 0; i < seed.size(); ++i) {
    seed[i] = static_cast<std::uint8_t>(i);
  }
  const auto secret = ed25519_from_seed(seed);
  const auto signature = ed25519_sign(secret, bytes_of("message"));
  CHECK(ed25519_verify(ed25519_public_key(secret), bytes_of("message"), signature));
  CHECK_FALSE(ed25519_verify(ed25519_public_key(secret), bytes_of("massage"), signature));
  CHECK_FALSE(
      ed25519_verify(ed25519_public_key(ed25519_generate()), bytes_of("message"), signature));
}
