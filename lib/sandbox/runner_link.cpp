#include "sandbox/runner_link.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace nixbuild::sandbox {

namespace asio = boost::asio;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kMaxDescriptors = 253;

/// One sendmsg; the descriptors go with the first byte.
ssize_t send_some(int socket, std::string_view bytes, std::span<const int> descriptors) noexcept {
  iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    auto* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

} // namespace

RunnerLink::RunnerLink(asio::any_io_executor executor, UniqueFd socket)
    : socket_(std::move(executor), asio::local::stream_protocol(), socket.get()) {
  (void)socket.release();
  buffer_.resize(128 * kKiB);
}

void RunnerLink::fail(const char* what, int error) const {
  if (cancelled_ || error == ECANCELED) {
    throw Error(Reaction::Cancelled, "sandbox.cancelled", "the build was cancelled");
  }
  throw Error(Reaction::Internal,
              "sandbox.lost",
              fmt::format("the runner is gone: {}: {}", what, std::strerror(error)));
}

aio::Task<void> RunnerLink::send(runner::Message message, std::span<const int> descriptors) {
  const std::string frame = runner::encode(message);
  std::string_view left = frame;
  while (!left.empty()) {
    if (cancelled_) {
      fail("send", ECANCELED);
    }
    const auto sent = send_some(socket_.native_handle(), left, descriptors);
    if (sent > 0) {
      left.remove_prefix(static_cast<std::size_t>(sent));
      descriptors = {};
    } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ETOOMANYREFS) {
      auto [error] = co_await socket_.async_wait(asio::socket_base::wait_write, kAwait);
      if (error) {
        fail("send", error == asio::error::operation_aborted ? ECANCELED : error.value());
      }
    } else if (errno != EINTR) {
      fail("send", errno);
    }
  }
}

aio::Task<runner::Message> RunnerLink::receive() {
  for (;;) {
    if (auto message = decoder_.next()) {
      co_return std::move(*message);
    }
    if (cancelled_) {
      fail("receive", ECANCELED);
    }
    auto [error, got] = co_await socket_.async_read_some(asio::buffer(buffer_), kAwait);
    if (error) {
      const int number = error == asio::error::operation_aborted ? ECANCELED
                         : error == asio::error::eof             ? ECONNRESET
                                                                 : error.value();
      fail("receive", number);
    }
    decoder_.feed(ByteView(buffer_).first(got));
  }
}

void RunnerLink::send_now(const runner::Message& message) noexcept {
  try {
    const auto frame = runner::encode(message);
    [[maybe_unused]] const auto sent = send_some(socket_.native_handle(), frame, {});
  } catch (...) {
    // No memory for nine bytes: closing the socket is the next best.
  }
}

void RunnerLink::cancel() noexcept {
  cancelled_ = true;
  boost::system::error_code ignored;
  socket_.cancel(ignored);
}

} // namespace nixbuild::sandbox
