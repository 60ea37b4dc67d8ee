#include "host_link.hpp"

#include "files.hpp"
#include "machine.hpp"

#include <poll.h>
#include <unistd.h>

#include <array>

namespace nixbuild::guest {

void HostLink::send(const sandbox::guest::FromGuest& message) {
  const auto frame = sandbox::guest::encode(message);
  write_all(port_.get(), bytes_of(frame));
}

sandbox::guest::ToGuest HostLink::receive() {
  for (;;) {
    if (const auto frame = frames_.next()) {
      return sandbox::guest::decode_to_guest(*frame);
    }
    read_some();
  }
}

std::optional<sandbox::guest::ToGuest> HostLink::poll() {
  for (;;) {
    if (const auto frame = frames_.next()) {
      return sandbox::guest::decode_to_guest(*frame);
    }
    pollfd entry{port_.get(), POLLIN, 0};
    if (::poll(&entry, 1, 0) <= 0 || (entry.revents & (POLLIN | POLLHUP)) == 0) {
      return std::nullopt;
    }
    read_some();
  }
}

void HostLink::read_some() {
  std::array<std::uint8_t, 64 * kKiB> piece;
  const auto got = system_call(
      kCode, "the control port", [&] { return ::read(port_.get(), piece.data(), piece.size()); });
  if (got == 0) {
    // Nobody is left to work for.
    power_off();
  }
  frames_.feed(ByteView(piece.data(), static_cast<std::size_t>(got)));
}

} // namespace nixbuild::guest
