#include "unit/model/error_code.hpp"

#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/model/signature.hpp>

#include <catch2/catch.hpp>

#include <vector>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const std::string kSecret = "test-key-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/"
                            "884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA==";
const std::string kPublic = "test-key-1:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
const std::string kSignature = "test-key-1:oAv5bI3wjmMjBKN0hU402+SqP8HAD+dQMo/"
                               "7MjkagRwGnp36ErQEv0w4h7KTRgusA/hwUC19ndYGRx5xvQD7BA==";

PathInfo source_info() {
  return {.path = StorePath::parse("7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt"),
          .deriver = {},
          .nar_hash = parse_hash("sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa"),
          .nar_size = 120,
          .references = {},
          .registration_time = 0,
          .ultimate = false,
          .signatures = {},
          .content_address = {}};
}

} // namespace

TEST_CASE("signature: the text that is signed", "[model][golden]") {
  const StoreDir dir;
  CHECK(fingerprint(dir, source_info()) ==
        "1;/nix/store/7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt;"
        "sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa;120;");
  auto info = source_info();
  info.references = {StorePath::parse("gmlc2nksq9083v3mv44znxivllyah303-b.txt"),
                     StorePath::parse("gmlc2nksq9083v3mv44znxivllyah303-c.txt")};
  CHECK(fingerprint(dir, info).ends_with(";120;/nix/store/gmlc2nksq9083v3mv44znxivllyah303-b.txt,"
                                         "/nix/store/gmlc2nksq9083v3mv44znxivllyah303-c.txt"));
}

TEST_CASE("signature: keys read and print, and sign as Nix does", "[model][golden]") {
  const auto key = SigningKey::parse(kSecret);
  CHECK(key.name() == "test-key-1");
  CHECK(key.secret_text() == kSecret);
  CHECK(key.public_text() == kPublic);
  const auto message = fingerprint(StoreDir(), source_info());
  CHECK(key.sign(message) == kSignature);
  const auto verifier = VerificationKey::parse(kPublic);
  CHECK(verifier.verify(message, kSignature));
  CHECK_FALSE(verifier.verify(message + " ", kSignature));
  CHECK_FALSE(verifier.verify(message, "other" + kSignature));
  CHECK_FALSE(verifier.verify(message, "test-key-1:AAAA"));
  CHECK_FALSE(verifier.verify(message, "nonsense"));
}

TEST_CASE("signature: a generated key verifies its own signatures", "[model][roundtrip]") {
  const auto key = SigningKey::generate("a");
  const auto verifier = VerificationKey::parse(key.public_text());
  CHECK(verifier.verify("m", SigningKey::parse(key.secret_text()).sign("m")));
  CHECK_FALSE(
      VerificationKey::parse(SigningKey::generate("a").public_text()).verify("m", key.sign("m")));
}

TEST_CASE("signature: rejects malformed keys", "[model][reject]") {
  const auto secret = [](const std::string& text) {
    return error_code_of([&] { return SigningKey::parse(text); });
  };
  CHECK(secret("") == "signature.key");
  CHECK(secret(":AAAA") == "signature.key");
  CHECK(secret(kPublic) == "signature.key");
  CHECK(secret("k:***") == "encoding.base64");
  auto mixed = kSecret;
  mixed[mixed.find(':') + 1] = 'B';
  CHECK(secret(mixed) == "signature.key");
  CHECK(error_code_of([] { return VerificationKey::parse(kSecret); }) == "signature.key");
  CHECK(error_code_of([] { return SigningKey::generate("a:b"); }) == "signature.key");
  CHECK(error_code_of([] { return SigningKey::generate(""); }) == "signature.key");
}

TEST_CASE("signature: trust comes from a known key or from the contents", "[model]") {
  const StoreDir dir;
  auto info = source_info();
  const std::vector<VerificationKey> keys{VerificationKey::parse(kPublic)};
  CHECK_FALSE(is_trusted(dir, info, keys));
  info.signatures = {"other:AAAA", kSignature};
  CHECK(is_trusted(dir, info, keys));
  CHECK_FALSE(is_trusted(dir, info, {}));
  info.nar_size = 121;
  CHECK_FALSE(is_trusted(dir, info, keys));

  info.content_address = "text:" + hash_nix32(hash_of(HashAlgorithm::Sha256, bytes_of("hello")));
  CHECK(is_trusted(dir, info, {}));
  info.content_address = "text:" + hash_nix32(hash_of(HashAlgorithm::Sha256, bytes_of("other")));
  CHECK_FALSE(is_trusted(dir, info, {}));
  info.content_address = "nonsense";
  CHECK_FALSE(is_trusted(dir, info, {}));
}

TEST_CASE("signature: a self-referring content-addressed path is trusted", "[model]") {
  auto info = source_info();
  info.path = StorePath::parse("gszi1nxgyf69xnd84jqyry5yjhqfmnfr-cadrv");
  info.references = {info.path};
  info.content_address = "fixed:r:sha256:18nrsqhkazc4vfyn8gn0kw60psmf29197n1hf96afkpyqyha06bx";
  CHECK(is_trusted(StoreDir(), info, {}));
  info.references.clear();
  CHECK_FALSE(is_trusted(StoreDir(), info, {}));
}
