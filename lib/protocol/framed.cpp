#include "protocol/word.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/framed.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::protocol {

FramedReader::Piece FramedReader::read(ByteView bytes) {
  Piece out;
  while (!finished_ && left_ == 0) {
    const std::size_t taken = std::min(length_.size() - length_bytes_, bytes.size() - out.used);
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(out.used),
                taken,
                length_.begin() + static_cast<std::ptrdiff_t>(length_bytes_));
    length_bytes_ += taken;
    out.used += taken;
    if (length_bytes_ < length_.size()) {
      return out;
    }
    const std::uint64_t length = wire::load_word(length_);
    if (length > frame_limit_) {
      throw Error(Reaction::Reject,
                  "framed.length",
                  fmt::format("a frame of {} bytes exceeds {}", length, frame_limit_));
    }
    length_bytes_ = 0;
    left_ = length;
    finished_ = length == 0;
  }
  const auto size =
      static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size() - out.used));
  out.payload = bytes.subspan(out.used, size);
  out.used += size;
  left_ -= size;
  payload_bytes_ += size;
  return out;
}

void write_frame(std::string& out, ByteView payload) {
  if (!payload.empty()) {
    wire::append_word(out, payload.size());
    out += text_of(payload);
  }
}

void write_end_of_frames(std::string& out) {
  wire::append_word(out, 0);
}

} // namespace nixbuild::protocol
