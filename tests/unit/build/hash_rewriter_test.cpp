#include "build/hash_rewriter.hpp"

#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace hash_rewriter_test {

using namespace nixbuild;
using build::HashRewriter;

namespace {

const std::string kOldOne(32, 'a');
const std::string kOldTwo(32, 'b');
const std::string kOne(32, '1');
const std::string kTwo(32, '2');

std::string text_of(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The stream in pieces of `piece` bytes.
std::string rewrite(HashRewriter& rewriter, std::string_view text, std::size_t piece) {
  std::string out;
  while (!text.empty()) {
    const auto now = text.substr(0, piece);
    out += text_of(rewriter.feed(bytes_of(now)));
    text.remove_prefix(now.size());
  }
  return out + text_of(rewriter.finish());
}

} // namespace

TEST_CASE("hash rewriter: replaces at every offset, whatever the pieces", "[build]") {
  const std::string before =
      kOldOne + "x" + kOldTwo + kOldOne + "/tail " + kOldOne.substr(1) + " end " + kOldTwo;
  const std::string after =
      kOne + "x" + kTwo + kOne + "/tail " + kOldOne.substr(1) + " end " + kTwo;
  for (const std::size_t piece : {1U, 2U, 7U, 31U, 32U, 33U, 64U, 1000U}) {
    HashRewriter rewriter;
    rewriter.replace(kOldOne, kOne, true);
    rewriter.replace(kOldTwo, kTwo);
    CHECK(rewrite(rewriter, before, piece) == after);
    CHECK(rewriter.noted() == std::vector<std::uint64_t>{0, 65});
  }
}

TEST_CASE(
    "hash rewriter: what was put in is not looked at, and of two that overlap the first counts",
    "[build]") {
  const std::string from = "0123456789abcdfghijklmnpqrsvwxyz";
  const std::string to = "zyxwvsrqpnmlkjihgfdcba9876543210";
  const std::string half = kOldTwo.substr(0, 16);
  const std::string crossing = from.substr(16) + half;
  for (const std::size_t piece : {1U, 7U, 31U, 32U, 33U, 48U, 64U, 1000U}) {
    CAPTURE(piece);
    HashRewriter rewriter;
    rewriter.replace(crossing, kTwo, true);
    rewriter.replace(from, to, true);
    // The new text's last character and what comes behind it are the old text.
    CHECK(rewrite(rewriter, from + from.substr(1) + from, piece) == to + from.substr(1) + to);
    CHECK(rewriter.noted() == std::vector<std::uint64_t>{0, 63});
    HashRewriter other;
    other.replace(crossing, kTwo);
    other.replace(from, to);
    CHECK(rewrite(other, from + half + from.substr(16) + half, piece) == to + half + kTwo);
  }
}

TEST_CASE("hash rewriter: short streams and none at all come through", "[build]") {
  for (const std::string text : {"", "x", "0123456789"}) {
    HashRewriter rewriter;
    rewriter.replace(kOldOne, kOne);
    CHECK(rewrite(rewriter, text, 3) == text);
  }
}

TEST_CASE("hash rewriter: what is no hash part is refused, and so are too many notes",
          "[build][reject]") {
  HashRewriter rewriter;
  CHECK_THROWS_AS(rewriter.replace("short", kOne), Error);
  rewriter.replace(kOldOne, kOne, true);
  std::string many;
  for (int i = 0; i < 1024; ++i) {
    many += kOldOne;
  }
  const auto flood = [&] {
    for (int i = 0; i < 1025; ++i) {
      static_cast<void>(rewriter.feed(bytes_of(many)));
    }
  };
  try {
    flood();
    FAIL("taken");
  } catch (const Error& error) {
    CHECK(error.code() == "build.occurrences");
  }
}

} // namespace hash_rewriter_test
