#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace nixbuild::aio {

/// Time allowed for one wait. Zero: no limit.
using Patience = std::chrono::milliseconds;

/// One descriptor that bytes are read from or written to: socket, pipe, terminal or file. Used from
/// one strand, one operation at a time in each direction. Terminal cancellation ends a wait with
/// `stream.cancelled`.
///
/// A descriptor that came from another process shares its open file description with that process;
/// switching a shared pipe or terminal to non-blocking would surprise its owner. So pipes and
/// terminals are opened again through /proc/self/fd where that is allowed; sockets are switched.
class NIXBUILD_API ByteStream {
public:
  ByteStream(boost::asio::any_io_executor executor, UniqueFd fd);
  ~ByteStream();
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  /// At least one byte, or 0 at the end of the stream. Errors: `stream.timeout`, `stream.read`.
  Task<std::size_t> read_some(MutableBytes buffer, Patience patience = Patience{0});
  /// All of `bytes`; patience counts anew whenever some of them got through. Errors:
  /// `stream.timeout`, `stream.write`, `stream.closed` (Disconnected).
  Task<void> write_all(ByteView bytes, Patience patience = Patience{0});
  /// A range of a file, by the kernel where it can (sendfile). Errors as write_all and
  /// `stream.short-file`.
  Task<void>
  send_file(int file, std::uint64_t offset, std::uint64_t length, Patience patience = Patience{0});

  /// Writes what fits now; returns how many bytes. Never waits.
  std::size_t write_now(ByteView bytes);

  /// Completes when the other side has closed (or reset) the stream. Bytes that arrive are left
  /// alone; while some are waiting to be read the stream counts as open, and this polls slowly.
  Task<void> wait_hang_up();

  /// Makes pending and later waits end with `stream.cancelled`.
  void cancel() noexcept;
  [[nodiscard]] int native() const noexcept;

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::aio
