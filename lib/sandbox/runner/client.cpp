#include "sandbox/runner/client.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace nixbuild::sandbox::runner {

namespace {

constexpr std::size_t kMaxDescriptors = 253; // SCM_MAX_FD
constexpr std::size_t kMaxWaiting = 2 * kMaxDescriptors;

} // namespace

Client::Client(UniqueFd socket) : socket_(std::move(socket)) {
  const int flags = ::fcntl(socket_.get(), F_GETFL);
  system_call("sandbox.spawn", "switching the socket to non-blocking", [&] {
    return ::fcntl(socket_.get(), F_SETFL, flags | O_NONBLOCK);
  });
}

void Client::read_more() {
  std::array<std::uint8_t, 64 * kKiB> buffer;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control;
  iovec piece{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const auto got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0) {
    closed_ = errno != EAGAIN && errno != EINTR;
    return;
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
  if ((message.msg_flags & MSG_CTRUNC) != 0 || descriptors_.size() > kMaxWaiting) {
    throw Error(Reaction::Reject,
                "sandbox.runner-protocol",
                "more descriptors came than can be open (RLIMIT_NOFILE) or were announced");
  }
  if (got == 0) {
    closed_ = true;
    return;
  }
  decoder_.feed(ByteView(buffer).first(static_cast<std::size_t>(got)));
}

UniqueFd Client::take_descriptor() {
  if (descriptors_.empty()) {
    throw Error(
        Reaction::Reject, "sandbox.runner-protocol", "a message came without its descriptor");
  }
  auto fd = std::move(descriptors_.front());
  descriptors_.pop_front();
  return fd;
}

void Client::queue(const Message& message) {
  if (sent_ == queue_.size()) {
    queue_.clear();
    sent_ = 0;
  } else if (sent_ > kQueueLimit) {
    queue_.erase(0, sent_);
    sent_ = 0;
  }
  const auto frame = encode(message);
  queue_ += frame;
  queued_bytes_ += frame.size();
}

void Client::queue(const Message& message, UniqueFd descriptor) {
  leaving_.emplace_back(queued_bytes_, std::move(descriptor));
  queue(message);
}

/// One call of sendmsg: up to the next descriptor, or with it.
ssize_t Client::send_some() {
  iovec piece{queue_.data() + sent_, queue_.size() - sent_};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  const bool beside = !leaving_.empty() && leaving_.front().first == sent_bytes_;
  if (beside) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    auto* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = leaving_.front().second.get();
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  const std::size_t next = beside ? 1 : 0;
  if (leaving_.size() > next) {
    piece.iov_len = std::min<std::size_t>(piece.iov_len, leaving_[next].first - sent_bytes_);
  }
  const auto sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent > 0 && beside) {
    leaving_.pop_front();
  }
  return sent;
}

void Client::flush() {
  while (has_output() && !closed_) {
    const auto sent = send_some();
    if (sent > 0) {
      sent_ += static_cast<std::size_t>(sent);
      sent_bytes_ += static_cast<std::uint64_t>(sent);
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      closed_ = true;
    }
  }
}

} // namespace nixbuild::sandbox::runner
