#include "sandbox/channel_sockets.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace nixbuild::sandbox {

namespace {

constexpr std::size_t kSocketPiece = 64 * kKiB;
/// A peer that does not take its answers is not heard any more.
constexpr std::size_t kMostUnsent = 8 * kMiB;

bool would_block() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

} // namespace

ChannelSockets::ChannelSockets(UniqueFd port, Channels::Side side)
    : port_(std::move(port)), channels_(side) {}

void ChannelSockets::join(unsigned channel, UniqueFd socket) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  system_call("sandbox.spawn", "switching a socket to non-blocking", [&] {
    return ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK);
  });
  sockets_.at(channel) = std::move(socket);
}

void ChannelSockets::watch(std::vector<pollfd>& entries) const {
  const auto unsent = channels_.outgoing().size();
  entries.push_back(
      {port_.get(),
       static_cast<short>((unsent < kMostUnsent ? POLLIN : 0) | (unsent > 0 ? POLLOUT : 0)),
       0});
  for (unsigned channel = 0; channel < sockets_.size(); ++channel) {
    const auto events = static_cast<short>((channels_.room(channel) > 0 ? POLLIN : 0) |
                                           (channels_.incoming(channel).empty() ? 0 : POLLOUT));
    // A socket whose other end has closed is always ready: it is asked only where that matters.
    if (sockets_[channel] && events != 0) {
      entries.push_back({sockets_[channel].get(), events, 0});
    }
  }
}

bool ChannelSockets::move() {
  if (!read_port()) {
    return false;
  }
  for (unsigned channel = 0; channel < sockets_.size(); ++channel) {
    if (sockets_[channel]) {
      write_socket(channel);
    }
    if (sockets_[channel]) {
      read_socket(channel);
    }
  }
  return write_port();
}

bool ChannelSockets::read_port() {
  if (channels_.outgoing().size() >= kMostUnsent) {
    return true;
  }
  std::array<std::uint8_t, kSocketPiece> buffer;
  const auto got = ::read(port_.get(), buffer.data(), buffer.size());
  if (got > 0) {
    channels_.feed(ByteView(buffer).first(static_cast<std::size_t>(got)));
    return true;
  }
  return got < 0 && would_block();
}

bool ChannelSockets::write_port() {
  auto& bytes = channels_.outgoing();
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const auto put = ::write(port_.get(), bytes.data() + sent, bytes.size() - sent);
    if (put <= 0) {
      if (put < 0 && would_block()) {
        break;
      }
      return false;
    }
    sent += static_cast<std::size_t>(put);
  }
  bytes.erase(0, sent);
  return true;
}

void ChannelSockets::write_socket(unsigned channel) {
  const auto bytes = channels_.incoming(channel);
  if (!bytes.empty()) {
    const auto put =
        ::send(sockets_[channel].get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put > 0) {
      channels_.take(channel, static_cast<std::size_t>(put));
    } else if (!would_block()) {
      channels_.end(channel);
      sockets_[channel].reset();
      return;
    }
  }
  if (channels_.drained(channel)) {
    channels_.end(channel);
    sockets_[channel].reset();
  }
}

void ChannelSockets::read_socket(unsigned channel) {
  std::array<std::uint8_t, kSocketPiece> buffer;
  const auto room = std::min(channels_.room(channel), buffer.size());
  if (room == 0) {
    return;
  }
  const auto got = ::recv(sockets_[channel].get(), buffer.data(), room, MSG_DONTWAIT);
  if (got > 0) {
    channels_.send(channel, ByteView(buffer).first(static_cast<std::size_t>(got)));
  } else if (got == 0 || !would_block()) {
    channels_.end(channel);
    sockets_[channel].reset();
  }
}

std::array<UniqueFd, 2> socket_pair() {
  int ends[2];
  system_call("sandbox.spawn", "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

} // namespace nixbuild::sandbox
