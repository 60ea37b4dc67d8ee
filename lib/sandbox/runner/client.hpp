#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>

namespace nixbuild::sandbox::runner {

/// The runner's end of a connection to a daemon: never blocks.
class Client {
public:
  /// More than this is not queued ahead: the guest waits instead.
  static constexpr std::size_t kQueueLimit = 512 * kKiB;

  explicit Client(UniqueFd socket);

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }

  [[nodiscard]] bool closed() const noexcept { return closed_; }

  [[nodiscard]] bool has_output() const noexcept { return sent_ < queue_.size(); }

  [[nodiscard]] bool has_room() const noexcept { return queue_.size() - sent_ < kQueueLimit; }

  /// Reads what is there; marks the connection closed at its end.
  void read_more();

  /// Error `sandbox.runner-protocol`.
  [[nodiscard]] std::optional<Message> next() { return decoder_.next(); }

  /// The next descriptor that came; error `sandbox.runner-protocol` when there is none.
  [[nodiscard]] UniqueFd take_descriptor();
  void queue(const Message& message);
  /// The same with a descriptor beside it.
  void queue(const Message& message, UniqueFd descriptor);

  /// Descriptors that have not been sent yet.
  [[nodiscard]] std::size_t leaving() const noexcept { return leaving_.size(); }

  /// Writes what fits.
  void flush();

  // What this connection has been told already.
  bool attached = false;
  std::size_t phases_told = 0;
  std::uint64_t log_told = 0;
  bool exit_told = false;
  bool failure_told = false;

private:
  ssize_t send_some();

  UniqueFd socket_;
  Decoder decoder_;
  std::deque<UniqueFd> descriptors_;
  std::string queue_;
  std::size_t sent_ = 0;
  /// Descriptors on their way out, each beside the byte of that number.
  std::deque<std::pair<std::uint64_t, UniqueFd>> leaving_;
  std::uint64_t queued_bytes_ = 0; ///< of all time
  std::uint64_t sent_bytes_ = 0;
  bool closed_ = false;
};

} // namespace nixbuild::sandbox::runner
