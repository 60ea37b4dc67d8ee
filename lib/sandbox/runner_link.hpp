#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <sys/types.h>

#include <deque>
#include <optional>
#include <span>
#include <string>

namespace nixbuild::sandbox {

/// The daemon's end of the socket to a runner. One reader and one writer at a time, one strand.
class RunnerLink {
public:
  RunnerLink(boost::asio::any_io_executor executor, UniqueFd socket);

  /// Sends a message, with descriptors beside it (at most 253). Errors: `sandbox.lost`.
  aio::Task<void> send(runner::Message message, std::span<const int> descriptors = {});
  /// The next message. Errors: `sandbox.lost` (the runner is gone), `sandbox.cancelled`,
  /// `sandbox.runner-protocol`.
  aio::Task<runner::Message> receive();
  /// The descriptor of a message that has been received. Error `sandbox.runner-protocol` when none
  /// came.
  [[nodiscard]] UniqueFd take_descriptor();
  /// Sends a short message if it fits now.
  void send_now(const runner::Message& message) noexcept;
  /// Pending and later calls end with `sandbox.cancelled`.
  void cancel() noexcept;

  /// The runner has closed its end, in whatever way.
  [[nodiscard]] bool gone() const noexcept { return gone_; }

  [[nodiscard]] bool cancelled() const noexcept { return cancelled_; }

private:
  ssize_t receive_some();
  [[noreturn]] void fail(const char* what, int error);

  boost::asio::local::stream_protocol::socket socket_;
  runner::Decoder decoder_;
  Bytes buffer_;
  std::deque<UniqueFd> descriptors_; ///< that came, and that nobody has taken
  bool cancelled_ = false;
  bool gone_ = false;
};

} // namespace nixbuild::sandbox
