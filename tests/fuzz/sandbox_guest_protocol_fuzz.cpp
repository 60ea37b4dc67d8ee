// A guest is hostile: whatever it sends, however it is cut, is accepted or refused the same way,
// and what is accepted encodes to the same bytes again. The first byte of the input chooses the
// cut, the second the stream, the rest is what the guest sends.

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

struct Outcome {
  std::string written;
  std::string code;

  bool operator==(const Outcome&) const = default;
};

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

template <class Feed>
Outcome run(ByteView bytes, std::size_t cut, Feed&& feed) {
  Outcome outcome;
  try {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(cut, bytes.size()));
      feed(piece, outcome.written);
      bytes = bytes.subspan(piece.size());
    }
  } catch (const Error& error) {
    outcome.code = error.code();
    require(outcome.code == "sandbox.protocol");
  }
  return outcome;
}

/// Frames of one direction: all that is decoded is encoded again.
template <class Decode>
Outcome run_frames(ByteView bytes, std::size_t cut, std::size_t limit, Decode&& decode) {
  guest::FrameBuffer frames(limit);
  return run(bytes, cut, [&](ByteView piece, std::string& written) {
    frames.feed(piece);
    while (const auto frame = frames.next()) {
      written += guest::encode(decode(*frame));
    }
    require(frames.pending() < guest::kHeaderBytes + limit);
  });
}

/// A whole session in which the bytes are spread over the three ports.
Outcome run_session(ByteView bytes, std::size_t cut) {
  GuestJob job;
  job.outputs = {{"out", "x-out"}, {"dev", "x-dev"}};
  GuestSession session(job);
  return run(bytes, cut, [&](ByteView piece, std::string& written) {
    StringSink sink(written);
    session.feed_control(piece);
    while (const auto event = session.next_event()) {
      written += static_cast<char>('0' + event->index());
      if (std::holds_alternative<GuestExited>(*event)) {
        session.send_output(0);
        session.feed_output(bytes_of(std::string_view("\x03\0\0\0abc\0\0\0\0", 11)), sink);
      }
    }
    written += session.take_control();
  });
}

Outcome run_output(ByteView bytes, std::size_t cut) {
  guest::OutputFrames frames;
  return run(bytes, cut, [&](ByteView piece, std::string& written) {
    StringSink sink(written);
    frames.feed(piece, sink);
  });
}

void compare(ByteView bytes, std::size_t cut, unsigned stream) {
  const auto whole = bytes.size() + 1;
  switch (stream) {
  case 0: {
    const auto limit = guest::kMaxGuestPayload;
    const auto all = run_frames(bytes, whole, limit, guest::decode_from_guest);
    require(all == run_frames(bytes, cut, limit, guest::decode_from_guest));
    require(text_of(bytes).starts_with(all.written));
    break;
  }
  case 1: {
    const auto limit = guest::kMaxHostPayload;
    const auto all = run_frames(bytes, whole, limit, guest::decode_to_guest);
    require(all == run_frames(bytes, cut, limit, guest::decode_to_guest));
    require(text_of(bytes).starts_with(all.written));
    break;
  }
  case 2: {
    const auto all = run_output(bytes, whole);
    require(all == run_output(bytes, cut));
    require(all.written.size() <= bytes.size());
    break;
  }
  default:
    // The host answers earlier where the pieces are smaller, so the verdicts may differ.
    run_session(bytes, whole);
    run_session(bytes, cut);
    break;
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size >= 2) {
    compare(ByteView(data + 2, size - 2), data[0] + std::size_t{1}, data[1] % 4);
  }
  return 0;
}
