// A guest's network is hostile: however its stream of frames is cut, the same frames come out, no
// more than one is held, and what is refused can be answered. The first byte chooses the cut.

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/egress.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

struct Outcome {
  Bytes frames; ///< as a stream again
  bool refused = false;

  bool operator==(const Outcome&) const = default;
};

Outcome run(ByteView bytes, std::size_t cut) {
  static const EgressRules rules({0x7f000001}, {});
  Outcome outcome;
  FrameStream stream;
  try {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(cut, bytes.size()));
      stream.feed(piece);
      while (const auto frame = stream.next()) {
        append_frame(outcome.frames, *frame);
        if (judge_frame(*frame, rules) == FrameVerdict::Refuse) {
          require(refusal_of(*frame).size() <= 14 + 20 + 8 + 60 + 8);
        }
      }
      bytes = bytes.subspan(piece.size());
    }
  } catch (const Error& error) {
    require(error.code() == "sandbox.network");
    outcome.refused = true;
  }
  return outcome;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const ByteView bytes(data + 1, size - 1);
  const auto whole = run(bytes, bytes.size() + 1);
  require(run(bytes, 1U + data[0]) == whole);
  require(whole.frames.size() <= bytes.size());
  require(std::equal(whole.frames.begin(), whole.frames.end(), bytes.begin()));
  return 0;
}
