#include "nar/base32_class.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reference_scan.hpp>

#include <catch2/catch.hpp>

#include <random>
#include <set>
#include <string>
#include <vector>

using namespace nixbuild;

namespace {

constexpr std::string_view kAlphabet = "0123456789abcdfghijklmnpqrsvwxyz";

std::string random_part(std::mt19937_64& random) {
  std::string text;
  for (int i = 0; i < 32; ++i) {
    text += kAlphabet[random() % 32];
  }
  return text;
}

std::vector<std::size_t>
scan(const std::vector<std::string>& parts, std::string_view text, std::size_t cut) {
  nar::ReferenceScanner scanner(parts);
  for (std::size_t at = 0; at < text.size(); at += cut) {
    scanner.feed(bytes_of(text.substr(at, cut)));
  }
  return scanner.found();
}

} // namespace

TEST_CASE("reference scan: finds a hash part at every offset and in every cut", "[nar]") {
  std::mt19937_64 random(1);
  const std::vector<std::string> parts{random_part(random), random_part(random)};
  for (const char filler : {' ', 'a'}) {
    for (std::size_t offset = 0; offset < 200; ++offset) {
      std::string text(offset, filler);
      text += parts[1];
      text.append(offset % 70, filler);
      for (const std::size_t cut : {1U, 3U, 31U, 32U, 33U, 64U, 100U, 1000U}) {
        REQUIRE(scan(parts, text, cut) == std::vector<std::size_t>{1});
      }
    }
  }
}

TEST_CASE("reference scan: does not find what is not there", "[nar][reject]") {
  std::mt19937_64 random(2);
  const auto part = random_part(random);
  for (std::size_t at = 0; at < 32; ++at) {
    for (const char other : {'e', 'A', '\xff', '0', '1'}) {
      auto text = part;
      if (text[at] == other) {
        continue;
      }
      text[at] = other;
      CHECK(scan({part}, "x" + text + text, 50).empty());
    }
  }
  CHECK(scan({part}, part.substr(0, 31), 5).empty());
  CHECK(scan({part}, part.substr(0, 31) + " " + part.substr(31), 5).empty());
  CHECK(scan({}, part, 5).empty());
}

TEST_CASE("reference scan: agrees with a plain search on random text", "[nar][property]") {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> parts;
    for (int i = 0; i < 30; ++i) {
      parts.push_back(random_part(random));
    }
    parts.push_back(parts[3]); // the same one twice
    std::string text;
    while (text.size() < 12'000) {
      switch (random() % 4) {
      case 0:
        text += parts[random() % parts.size()].substr(random() % 2 * (random() % 32));
        break;
      case 1:
        text += random_part(random).substr(random() % 32);
        break;
      default:
        for (auto n = random() % 90; n > 0; --n) {
          text += static_cast<char>(random());
        }
      }
    }
    std::vector<std::size_t> expected;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (text.find(parts[i]) != std::string::npos) {
        expected.push_back(i);
      }
    }
    for (const std::size_t cut : {std::size_t{20'000}, std::size_t{4096}, 1 + random() % 100}) {
      REQUIRE(scan(parts, text, cut) == expected);
    }
  }
}

TEST_CASE("reference scan: every classifier of this processor knows the alphabet", "[nar]") {
  const auto classifiers = nar::available_classifiers();
  for (std::size_t i = 0; i < classifiers.count; ++i) {
    Bytes all;
    for (unsigned value = 0; value < 256; ++value) {
      all.push_back(static_cast<std::uint8_t>(value));
    }
    std::array<std::uint64_t, 4> masks{};
    classifiers.functions[i](all.data(), 4, masks.data());
    for (unsigned value = 0; value < 256; ++value) {
      const bool member = kAlphabet.find(static_cast<char>(value)) != std::string_view::npos;
      CHECK(((masks[value / 64] >> (value % 64)) & 1U) == (member ? 1U : 0U));
      CHECK(nar::kIsBase32[value] == member);
    }
  }
}

TEST_CASE("reference scan: refuses candidates that are no hash parts", "[nar][reject]") {
  for (const std::string& bad :
       {std::string(), std::string(31, 'a'), std::string(33, 'a'), std::string(31, 'a') + "e"}) {
    try {
      nar::ReferenceScanner scanner(std::vector<std::string>{bad});
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == "reference-scan.candidate");
    }
  }
}
