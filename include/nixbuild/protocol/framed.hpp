#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

/// The framed streams of the worker protocol: frames of a 64-bit length and that many bytes without
/// padding, then a length of 0. Source: protocol facts 1.
namespace nixbuild::protocol {

/// Push reader; copies no payload and allocates nothing. To drain a stream after an error, go on
/// until `finished` and forget the payload.
class NIXBUILD_API FramedReader {
public:
  /// Longer frames are an error. What Nix reads: any length of 32 bits.
  static constexpr std::uint64_t kFrameLimit = 0xffffffff;

  struct Piece {
    ByteView payload;     ///< a part of the bytes given; empty when they held no payload
    std::size_t used = 0; ///< bytes done with, from the front; take `payload` before dropping them
  };

  explicit FramedReader(std::uint64_t frame_limit = kFrameLimit) : frame_limit_(frame_limit) {}

  /// At most one piece of payload from the front of `bytes`. `used` is 0 only when `bytes` is empty
  /// or the stream is finished, so call it again until then. Error (Reject) `framed.length`, thrown
  /// again from then on.
  [[nodiscard]] Piece read(ByteView bytes);

  /// The closing 0 has been read: bytes from here on belong to what follows.
  [[nodiscard]] bool finished() const noexcept { return finished_; }

  /// Bytes of payload so far.
  [[nodiscard]] std::uint64_t payload_bytes() const noexcept { return payload_bytes_; }

private:
  std::uint64_t frame_limit_;
  std::uint64_t left_ = 0;               ///< of the current frame
  std::array<std::uint8_t, 8> length_{}; ///< of the next frame, as far as it has arrived
  std::size_t length_bytes_ = 0;
  std::uint64_t payload_bytes_ = 0;
  bool finished_ = false;
};

/// Appends one frame; nothing for no bytes, which would end the stream.
NIXBUILD_API void write_frame(std::string& out, ByteView payload);
/// Appends the end of the stream.
NIXBUILD_API void write_end_of_frames(std::string& out);

} // namespace nixbuild::protocol
