// A machine with a store socket is hostile: however its stream is cut, the same conversations come
// of it, and none holds more than its window. The first byte chooses the cut.

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/channels.hpp>

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
  std::string opened;
  std::string left;
  bool refused = false;

  bool operator==(const Outcome&) const = default;
};

Outcome run(ByteView bytes, std::size_t cut) {
  Outcome outcome;
  Channels channels(Channels::Side::Host);
  require(channels.open() == 0U);
  try {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(cut, bytes.size()));
      channels.feed(piece);
      bytes = bytes.subspan(piece.size());
      while (const auto channel = channels.next_opened()) {
        outcome.opened += static_cast<char>(*channel);
      }
      for (unsigned channel = 0; channel < Channels::kMost; ++channel) {
        require(channels.incoming(channel).size() <= Channels::kWindow);
        require(channels.room(channel) <= Channels::kWindow);
      }
    }
  } catch (const Error& error) {
    require(error.code() == "sandbox.channels");
    outcome.refused = true;
  }
  for (unsigned channel = 0; channel < Channels::kMost; ++channel) {
    outcome.left += channels.incoming(channel);
  }
  return outcome;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const ByteView bytes(data + 1, size - 1);
  auto whole = run(bytes, bytes.size() + 1);
  auto cut = run(bytes, 1U + data[0]);
  if (whole.refused) {
    // In one piece nobody is told of what was opened before.
    whole.opened.clear();
    cut.opened.clear();
  }
  require(cut == whole);
  require(whole.left.size() <= bytes.size());
  return 0;
}
