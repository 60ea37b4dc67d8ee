#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <string>

using namespace nixbuild;

TEST_CASE("nix32: writes the digest of a known NAR as Nix does", "[base][golden]") {
  const auto digest =
      hex_decode("0a430879c266f8b57f4092a0f935cf3facd48bbccde5760d4748ca405171e969");
  const std::string text = "0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa";
  CHECK(nix32_encode(digest) == text);
  CHECK(nix32_decode(text, 32) == digest);
}

TEST_CASE("nix32: every length up to 64 bytes survives the round trip", "[base][roundtrip]") {
  for (std::size_t size = 0; size <= 64; ++size) {
    Bytes bytes;
    for (std::size_t i = 0; i < size; ++i) {
      bytes.push_back(static_cast<std::uint8_t>(i * 37 + size * 11));
    }
    const auto text = nix32_encode(bytes);
    CHECK(text.size() == nix32_length(size));
    CHECK(nix32_decode(text, size) == bytes);
  }
}

TEST_CASE("nix32: refuses wrong length, foreign characters and leftover bits", "[base][reject]") {
  const std::string good(52, '0');
  CHECK_THROWS_AS(nix32_decode(good.substr(1), 32), Error);
  for (const char c : {'e', 'o', 't', 'u', 'A', ' '}) {
    std::string bad = good;
    bad[10] = c;
    CHECK_THROWS_AS(nix32_decode(bad, 32), Error);
  }
  std::string leftover = good;
  leftover[0] = 'z';
  CHECK_THROWS_AS(nix32_decode(leftover, 32), Error);
}

TEST_CASE("hex: round trip, both cases, refusals", "[base][roundtrip][reject]") {
  const Bytes bytes = {0x00, 0x7f, 0xab, 0xff};
  CHECK(hex_encode(bytes) == "007fabff");
  CHECK(hex_decode("007FaBfF") == bytes);
  CHECK_THROWS_AS(hex_decode("0"), Error);
  CHECK_THROWS_AS(hex_decode("0g"), Error);
}

TEST_CASE("base64: the vectors of RFC 4648", "[base][golden]") {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, coded] : vectors) {
    CHECK(base64_encode(bytes_of(plain)) == coded);
    CHECK(text_of(base64_decode(coded)) == plain);
  }
}

TEST_CASE("base64: refuses bad lengths, digits, padding and leftover bits", "[base][reject]") {
  for (const char* text : {"Z", "Zg=", "Z===", "Zh==", "Zm9=", "Zg==Zg==", "Zm 9", "Zm9-"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(base64_decode(text), Error);
  }
}
