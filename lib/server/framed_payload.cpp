#include "framed_payload.hpp"

#include <nixbuild/base/error.hpp>

#include <algorithm>

namespace nixbuild::server {

namespace {
constexpr std::size_t kChunk = 256 * kKiB;
} // namespace

FramedPayload::FramedPayload(protocol::worker::RequestReader& reader,
                             aio::ByteStream& in,
                             std::chrono::milliseconds patience)
    : reader_(reader), in_(in), patience_(patience) {}

std::size_t FramedPayload::unpack(ByteView bytes, MutableBytes& buffer) {
  std::size_t used = 0;
  while (used < bytes.size() && !buffer.empty() && !frames_.finished()) {
    // A piece of payload is never longer than the bytes it was found in.
    const auto piece =
        frames_.read(bytes.subspan(used, std::min(bytes.size() - used, buffer.size())));
    std::copy(piece.payload.begin(), piece.payload.end(), buffer.begin());
    buffer = buffer.subspan(piece.payload.size());
    used += piece.used;
  }
  return used;
}

aio::Task<void> FramedPayload::refill() {
  if (chunk_.empty()) {
    chunk_.resize(kChunk);
  }
  begin_ = 0;
  end_ = co_await in_.read_some(chunk_, patience_);
  if (end_ == 0) {
    throw Error(
        Reaction::Disconnected, "worker.truncated", "the client left inside a framed stream");
  }
}

aio::Task<std::size_t> FramedPayload::take_some(MutableBytes buffer) {
  const std::size_t wanted = buffer.size();
  while (buffer.size() == wanted && !frames_.finished()) {
    if (!reader_.raw().empty()) {
      reader_.consume_raw(unpack(reader_.raw(), buffer));
    } else if (begin_ < end_) {
      begin_ += unpack(ByteView(chunk_).subspan(begin_, end_ - begin_), buffer);
    } else {
      co_await refill();
    }
  }
  if (frames_.finished() && begin_ < end_) {
    reader_.feed(ByteView(chunk_).subspan(begin_, end_ - begin_));
    begin_ = end_;
  }
  co_return wanted - buffer.size();
}

aio::Task<std::size_t> FramedPayload::take(MutableBytes buffer) {
  std::size_t have = 0;
  while (have < buffer.size()) {
    const std::size_t count = co_await take_some(buffer.subspan(have));
    if (count == 0) {
      break;
    }
    have += count;
  }
  co_return have;
}

aio::Task<void> FramedPayload::drain() {
  Bytes forgotten(kChunk);
  while (co_await take_some(forgotten) > 0) {
  }
}

} // namespace nixbuild::server
