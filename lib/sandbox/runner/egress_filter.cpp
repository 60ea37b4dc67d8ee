#include "sandbox/runner/egress_filter.hpp"

#include <nixbuild/base/error.hpp>

#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace nixbuild::sandbox::runner {

namespace {

constexpr std::size_t kFilterPiece = 256 * kKiB;
/// Queued for one side before the other one is not read any more.
constexpr std::size_t kQueue = 1 * kMiB;

/// What waits to be written to a socket.
class Queue {
public:
  Bytes bytes;

  [[nodiscard]] bool empty() const noexcept { return sent_ == bytes.size(); }

  [[nodiscard]] bool has_room() const noexcept { return bytes.size() - sent_ < kQueue; }

  /// Writes what fits. False when the other side is gone.
  bool flush(const UniqueFd& socket) {
    while (!empty()) {
      const auto sent = ::send(
          socket.get(), bytes.data() + sent_, bytes.size() - sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) {
        return errno == EAGAIN || errno == EINTR;
      }
      sent_ += static_cast<std::size_t>(sent);
    }
    bytes.clear();
    sent_ = 0;
    return true;
  }

private:
  std::size_t sent_ = 0;
};

/// Reads what is there into `stream`. False at the end.
bool read_into(const UniqueFd& socket, FrameStream& stream) {
  static thread_local std::array<std::uint8_t, kFilterPiece> piece;
  const auto got = ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
  if (got < 0) {
    return errno == EAGAIN || errno == EINTR;
  }
  stream.feed(ByteView(piece).first(static_cast<std::size_t>(got)));
  return got > 0;
}

short events_of(bool read, bool write) {
  return static_cast<short>((read ? POLLIN : 0) | (write ? POLLOUT : 0));
}

} // namespace

std::vector<std::uint32_t> own_addresses() {
  ifaddrs* first = nullptr;
  system_call("sandbox.spawn", "looking at the interfaces", [&] { return ::getifaddrs(&first); });
  std::vector<std::uint32_t> addresses;
  for (const auto* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr != nullptr && entry->ifa_addr->sa_family == AF_INET) {
      sockaddr_in address{};
      std::memcpy(&address, entry->ifa_addr, sizeof address);
      addresses.push_back(ntohl(address.sin_addr.s_addr));
    }
  }
  ::freeifaddrs(first);
  return addresses;
}

void filter_egress(const UniqueFd& guest, const UniqueFd& helper, const EgressRules& rules) {
  FrameStream from_guest;
  FrameStream from_helper;
  Queue to_guest;
  Queue to_helper;
  for (bool open = true; open;) {
    const bool hear_guest = to_helper.has_room() && to_guest.has_room();
    const bool hear_helper = to_guest.has_room();
    std::array<pollfd, 2> sockets{{
        {guest.get(), events_of(hear_guest, !to_guest.empty()), 0},
        {helper.get(), events_of(hear_helper, !to_helper.empty()), 0},
    }};
    if (::poll(sockets.data(), sockets.size(), -1) < 0 && errno != EINTR) {
      throw_system_error("sandbox.network", "poll");
    }
    if (hear_guest && sockets[0].revents != 0) {
      open = read_into(guest, from_guest);
      while (const auto frame = from_guest.next()) {
        const auto verdict = judge_frame(*frame, rules);
        if (verdict == FrameVerdict::Pass) {
          append_frame(to_helper.bytes, *frame);
        } else if (verdict == FrameVerdict::Refuse) {
          append_frame(to_guest.bytes, refusal_of(*frame));
        }
      }
    }
    if (hear_helper && sockets[1].revents != 0) {
      open = read_into(helper, from_helper) && open;
      while (const auto frame = from_helper.next()) {
        append_frame(to_guest.bytes, *frame);
      }
    }
    open = to_guest.flush(guest) && to_helper.flush(helper) && open;
  }
}

} // namespace nixbuild::sandbox::runner
