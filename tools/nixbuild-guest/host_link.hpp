#pragma once

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

/// The control port.
namespace nixbuild::guest {

class HostLink {
public:
  explicit HostLink(UniqueFd port) : port_(std::move(port)) {}

  void send(const sandbox::guest::FromGuest& message);
  /// Waits for the next message. Powers off when the host has gone.
  [[nodiscard]] sandbox::guest::ToGuest receive();
  /// A message if one is there; waits for none.
  [[nodiscard]] std::optional<sandbox::guest::ToGuest> poll();

  [[nodiscard]] int fd() const noexcept { return port_.get(); }

private:
  void read_some();

  UniqueFd port_;
  sandbox::guest::FrameBuffer frames_{sandbox::guest::kMaxHostPayload};
};

} // namespace nixbuild::guest
