#pragma once

#include "archive_intake.hpp"

#include <nixbuild/protocol/worker.hpp>

#include <chrono>
#include <cstddef>

namespace nixbuild::server {

/// The framed stream behind a request of the worker protocol: first what the reader has gathered
/// beyond the request, then what comes from the client. What comes behind the stream is given back
/// to the reader. Errors: `framed.length`, `worker.truncated`, those of ByteStream::read_some.
class FramedPayload final : public ByteSource {
public:
  /// All of them outlive it.
  FramedPayload(protocol::worker::RequestReader& reader,
                aio::ByteStream& in,
                std::chrono::milliseconds patience);

  aio::Task<std::size_t> take(MutableBytes buffer) override;
  /// At least one byte, or 0 at the end of the stream.
  aio::Task<std::size_t> take_some(MutableBytes buffer);
  /// Takes the rest and forgets it.
  aio::Task<void> drain();

  [[nodiscard]] bool finished() const noexcept { return frames_.finished(); }

private:
  /// Payload out of `bytes`; returns how many of them were used.
  std::size_t unpack(ByteView bytes, MutableBytes& buffer);
  aio::Task<void> refill();

  protocol::worker::RequestReader& reader_;
  aio::ByteStream& in_;
  std::chrono::milliseconds patience_;
  protocol::FramedReader frames_;
  Bytes chunk_;
  std::size_t begin_ = 0; ///< of what is left in `chunk_`
  std::size_t end_ = 0;
};

} // namespace nixbuild::server
