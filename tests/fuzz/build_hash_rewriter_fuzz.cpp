// Hash parts are replaced wherever they stand, and what is noted is where they stood, in whatever
// pieces the stream comes. The first byte is the length of a piece; of the others some stand for a
// hash part or its beginning.

#include "build/hash_rewriter.hpp"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

using namespace nixbuild;

namespace {

constexpr std::string_view kIts = "0123456789abcdfghijklmnpqrsvwxyz";
constexpr std::string_view kItsNew = "zyxwvsrqpnmlkjihgfdcba9876543210";
constexpr std::string_view kOther = "g9f58l1jj88w6pdrfdpj5x9b1zrwszk8";
constexpr std::string_view kOtherNew = "ygnhkm73da8rlsijix5xngqc6jvmxpjk";

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

std::string stream_of(ByteView bytes) {
  std::string stream;
  for (const auto byte : bytes) {
    if (byte < 0x80) {
      stream += static_cast<char>(byte);
    } else {
      const auto text = (byte & 0x40) != 0 ? kIts : kOther;
      stream += text.substr(0, (byte & 0x20) != 0 ? text.size() : byte & 0x1f);
    }
  }
  return stream;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string stream = stream_of({data + 1, size - 1});
  std::string expected = stream;
  std::vector<std::uint64_t> places;
  for (auto at = stream.find(kIts); at != std::string::npos; at = stream.find(kIts, at + 1)) {
    places.push_back(at);
    expected.replace(at, kIts.size(), kItsNew);
  }
  for (auto at = stream.find(kOther); at != std::string::npos; at = stream.find(kOther, at + 1)) {
    expected.replace(at, kOther.size(), kOtherNew);
  }
  build::HashRewriter rewriter;
  rewriter.replace(kIts, kItsNew, true);
  rewriter.replace(kOther, kOtherNew);
  std::string given;
  const std::size_t piece = data[0] + std::size_t{1};
  for (std::size_t at = 0; at < stream.size(); at += piece) {
    given += text_of(rewriter.feed(bytes_of(std::string_view(stream).substr(at, piece))));
  }
  given += text_of(rewriter.finish());
  require(given == expected);
  require(rewriter.noted() == places);
  return 0;
}
