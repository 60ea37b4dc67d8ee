#include "frame_sink.hpp"

#include "files.hpp"

#include <nixbuild/sandbox/guest_protocol.hpp>

#include <algorithm>

namespace nixbuild::guest {

namespace {

constexpr std::size_t kFrame = 512 * kKiB;
constexpr std::size_t kLength = 4;
/// Pieces from this size on are frames of their own, written from where they are.
constexpr std::size_t kDirect = 64 * kKiB;

} // namespace

FrameSink::FrameSink(int port) : port_(port), frame_(kLength) {
  frame_.reserve(kLength + kFrame);
}

void FrameSink::write(ByteView bytes) {
  if (bytes.size() >= kDirect) {
    write_direct(bytes);
    return;
  }
  while (!bytes.empty()) {
    const auto size = std::min(bytes.size(), kLength + kFrame - frame_.size());
    frame_.insert(frame_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    bytes = bytes.subspan(size);
    if (frame_.size() == kLength + kFrame) {
      flush();
    }
  }
}

void FrameSink::flush() {
  if (frame_.size() > kLength) {
    send_frame(frame_.size() - kLength);
  }
}

void FrameSink::finish() {
  flush();
  send_frame(0);
}

void FrameSink::write_direct(ByteView bytes) {
  flush();
  while (!bytes.empty()) {
    const auto frame =
        bytes.first(std::min(bytes.size(), std::size_t{sandbox::guest::kMaxOutputFrame}));
    send_frame(frame.size());
    write_all(port_, frame);
    bytes = bytes.subspan(frame.size());
  }
}

/// Writes what was gathered behind the length of the frame, which may be larger than that.
void FrameSink::send_frame(std::size_t length) {
  for (std::size_t i = 0; i < kLength; ++i) {
    frame_[i] = static_cast<std::uint8_t>(length >> (8 * i));
  }
  write_all(port_, frame_);
  frame_.resize(kLength);
}

} // namespace nixbuild::guest
