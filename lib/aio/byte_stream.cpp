#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

namespace nixbuild::aio {

namespace asio = boost::asio;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::milliseconds kHangUpPoll{200};

using Instant = std::chrono::steady_clock::time_point;

constexpr std::size_t kSendChunk = 8 * kMiB;
constexpr int kPipeBytes = 1024 * 1024;

bool would_block() noexcept {
  return errno == EAGAIN || errno == EWOULDBLOCK;
}

/// A description of our own for the same pipe or terminal, or the descriptor as it is.
UniqueFd with_own_description(UniqueFd fd) {
  struct stat info {};

  system_call("stream.stat", "looking at a descriptor", [&] { return ::fstat(fd.get(), &info); });
  if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
    const int access = ::fcntl(fd.get(), F_GETFL) & O_ACCMODE;
    const std::string name = "/proc/self/fd/" + std::to_string(fd.get());
    if (S_ISFIFO(info.st_mode)) {
      // A pipe holds 64 KiB at first: large transfers would wake both sides for every one of them.
      ::fcntl(fd.get(), F_SETPIPE_SZ, kPipeBytes);
    }
    UniqueFd own(::open(name.c_str(), access | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (own) {
      return own;
    }
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
  return fd;
}

[[noreturn]] void throw_cancelled() {
  throw Error(Reaction::Cancelled, "stream.cancelled", "the wait on a stream was cancelled");
}

} // namespace

struct ByteStream::State {
  UniqueFd fd;
  asio::posix::stream_descriptor descriptor;

  /// The deadline of the waits of one direction. Its timer is left running from wait to wait and
  /// looks at the deadline when it fires: most waits are over long before, and setting a timer for
  /// each of them costs more than the wait.
  struct Deadline {
    explicit Deadline(const asio::any_io_executor& executor) : timer(executor) {}

    asio::steady_timer timer;
    Instant armed_for = Instant::max(); ///< max: not running
    Instant due = Instant::max();       ///< of the wait going on; max: none
    bool passed = false;
  };

  std::array<Deadline, 2> deadlines;
  bool pollable = true; ///< regular files and /dev/null never block and cannot be polled
  bool cancelled = false;

  State(asio::any_io_executor executor, UniqueFd given)
      : fd(with_own_description(std::move(given))),
        descriptor(executor), deadlines{Deadline(executor), Deadline(executor)} {
    boost::system::error_code error;
    descriptor.assign(fd.get(), error);
    pollable = !error;
  }

  ~State() {
    if (pollable) {
      descriptor.release();
    }
  }

  /// Has the timer fire at the deadline, or before it. Holds no share: a stream ends when its owner
  /// lets go of it, whatever timer still runs.
  static void arm(const std::shared_ptr<State>& self, std::size_t direction) {
    auto& deadline = self->deadlines[direction];
    if (deadline.armed_for <= deadline.due) {
      return;
    }
    deadline.armed_for = deadline.due;
    deadline.timer.expires_at(deadline.due);
    auto expired = [weak = std::weak_ptr<State>(self), direction](boost::system::error_code error) {
      const auto state = weak.lock();
      if (error || !state) {
        return;
      }
      auto& late = state->deadlines[direction];
      late.armed_for = Instant::max();
      if (late.due <= std::chrono::steady_clock::now()) {
        late.passed = true;
        state->descriptor.cancel();
      } else if (late.due != Instant::max()) {
        arm(state, direction);
      }
    };
    deadline.timer.async_wait(std::move(expired));
  }

  static Task<void> wait(std::shared_ptr<State> self, bool for_write, Patience patience) {
    const std::size_t direction = for_write ? 1 : 0;
    if (self->cancelled) {
      throw_cancelled();
    }
    if (!self->pollable) {
      co_return;
    }
    auto& deadline = self->deadlines[direction];
    deadline.passed = false;
    if (patience.count() > 0) {
      deadline.due = std::chrono::steady_clock::now() + patience;
      arm(self, direction);
    }
    const auto kind = for_write ? asio::posix::stream_descriptor::wait_write
                                : asio::posix::stream_descriptor::wait_read;
    auto [error] = co_await self->descriptor.async_wait(kind, kAwait);
    const bool late = deadline.passed;
    deadline.due = Instant::max();
    if (!error) {
      co_return;
    }
    if (late) {
      throw Error(Reaction::Timeout,
                  "stream.timeout",
                  "the peer did nothing for " + std::to_string(patience.count() / 1000) +
                      " seconds");
    }
    if (error == asio::error::operation_aborted) {
      const auto state = co_await asio::this_coro::cancellation_state;
      if (!self->cancelled && state.cancelled() == asio::cancellation_type::none) {
        // The deadline of the other direction cancels both: this wait simply starts again.
        co_await wait(self, for_write, patience);
        co_return;
      }
      throw_cancelled();
    }
    throw_system_error("stream.wait", "waiting for a stream", error.value());
  }
};

ByteStream::ByteStream(asio::any_io_executor executor, UniqueFd fd)
    : state_(std::make_shared<State>(std::move(executor), std::move(fd))) {}

ByteStream::~ByteStream() {
  cancel();
}

Task<std::size_t> ByteStream::read_some(MutableBytes buffer, Patience patience) {
  auto self = state_;
  for (;;) {
    const ssize_t count = ::read(self->fd.get(), buffer.data(), buffer.size());
    if (count >= 0) {
      co_return static_cast<std::size_t>(count);
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno == ECONNRESET || errno == EIO) {
      co_return 0; // a reset peer and a closed pty have nothing more to say
    }
    if (!would_block()) {
      throw_system_error("stream.read", "reading from a stream");
    }
    co_await State::wait(self, false, patience);
  }
}

std::size_t ByteStream::write_now(ByteView bytes) {
  for (;;) {
    const ssize_t count = ::write(state_->fd.get(), bytes.data(), bytes.size());
    if (count >= 0) {
      return static_cast<std::size_t>(count);
    }
    if (errno == EINTR) {
      continue;
    }
    if (would_block()) {
      return 0;
    }
    if (errno == EPIPE || errno == ECONNRESET) {
      throw Error(Reaction::Disconnected, "stream.closed", "the peer has closed the stream");
    }
    throw_system_error("stream.write", "writing to a stream");
  }
}

Task<void> ByteStream::write_all(ByteView bytes, Patience patience) {
  auto self = state_;
  while (!bytes.empty()) {
    const std::size_t count = write_now(bytes);
    bytes = bytes.subspan(count);
    if (count == 0) {
      co_await State::wait(self, true, patience);
    }
  }
}

Task<void>
ByteStream::send_file(int file, std::uint64_t offset, std::uint64_t length, Patience patience) {
  auto self = state_;
  bool by_kernel = true;
  std::string buffer;
  while (length > 0) {
    if (!by_kernel) {
      buffer.resize(std::min<std::uint64_t>(length, 256 * kKiB));
      const auto count = system_call("stream.read-file", "reading stored contents", [&] {
        return ::pread(file, buffer.data(), buffer.size(), static_cast<off_t>(offset));
      });
      if (count == 0) {
        throw Error(Reaction::Corrupt, "stream.short-file", "stored contents end too early");
      }
      co_await write_all(
          bytes_of(std::string_view(buffer).substr(0, static_cast<std::size_t>(count))), patience);
      offset += static_cast<std::uint64_t>(count);
      length -= static_cast<std::uint64_t>(count);
      continue;
    }
    auto position = static_cast<off_t>(offset);
    const ssize_t count =
        ::sendfile(self->fd.get(), file, &position, std::min<std::uint64_t>(length, kSendChunk));
    if (count > 0) {
      offset += static_cast<std::uint64_t>(count);
      length -= static_cast<std::uint64_t>(count);
    } else if (count == 0) {
      throw Error(Reaction::Corrupt, "stream.short-file", "stored contents end too early");
    } else if (would_block()) {
      co_await State::wait(self, true, patience);
    } else if (errno == EINVAL || errno == ENOSYS) {
      by_kernel = false;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      throw Error(Reaction::Disconnected, "stream.closed", "the peer has closed the stream");
    } else if (errno != EINTR) {
      throw_system_error("stream.write", "sending stored contents");
    }
  }
}

Task<void> ByteStream::wait_hang_up() {
  auto self = state_;
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    if (!self->pollable) {
      // A file never hangs up: wait until somebody cancels.
      timer.expires_after(std::chrono::hours(24));
      co_await timer.async_wait(asio::use_awaitable);
      continue;
    }
    const Patience unlimited(0);
    co_await State::wait(self, false, unlimited);
    pollfd entry{self->fd.get(), POLLIN | POLLRDHUP, 0};
    ::poll(&entry, 1, 0);
    if ((entry.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) {
      int waiting = 0;
      ::ioctl(self->fd.get(), FIONREAD, &waiting);
      if (waiting == 0 || (entry.revents & POLLERR) != 0) {
        co_return;
      }
    }
    timer.expires_after(kHangUpPoll);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

void ByteStream::cancel() noexcept {
  state_->cancelled = true;
  if (state_->pollable) {
    boost::system::error_code ignored;
    state_->descriptor.cancel(ignored);
  }
  for (auto& deadline : state_->deadlines) {
    deadline.timer.cancel();
    deadline.armed_for = Instant::max();
  }
}

int ByteStream::native() const noexcept {
  return state_->fd.get();
}

} // namespace nixbuild::aio
