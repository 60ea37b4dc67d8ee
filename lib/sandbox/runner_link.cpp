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

void RunnerLink::fail(const char* what, int error) {
  if (cancelled_ || error == ECANCELED) {
    throw Error(Reaction::Cancelled, "sandbox.cancelled", "the build was cancelled");
  }
  gone_ = true;
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
    const auto got = receive_some();
    if (got > 0) {
      decoder_.feed(ByteView(buffer_).first(static_cast<std::size_t>(got)));
    } else if (got == 0) {
      fail("receive", ECONNRESET);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      auto [error] = co_await socket_.async_wait(asio::socket_base::wait_read, kAwait);
      if (error) {
        fail("receive", error == asio::error::operation_aborted ? ECANCELED : error.value());
      }
    } else if (errno != EINTR) {
      fail("receive", errno);
    }
  }
}

/// One recvmsg; descriptors that come beside the bytes are kept.
ssize_t RunnerLink::receive_some() {
  iovec piece{buffer_.data(), buffer_.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const auto got = ::recvmsg(socket_.native_handle(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got <= 0) {
    return got;
  }
  for (auto* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const auto count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      descriptors_.emplace_back(fd);
    }
  }
  return got;
}

UniqueFd RunnerLink::take_descriptor() {
  if (descriptors_.empty()) {
    throw Error(
        Reaction::Internal, "sandbox.runner-protocol", "a message came without its descriptor");
  }
  auto fd = std::move(descriptors_.front());
  descriptors_.pop_front();
  return fd;
}

void RunnerLink::send_now(const runner::Message& message) noexcept {
  try {
    const auto frame = runner::encode(message);
    const auto sent = send_some(socket_.native_handle(), frame, {});
    gone_ = gone_ || (sent < 0 && (errno == EPIPE || errno == ECONNRESET));
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
