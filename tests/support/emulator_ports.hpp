#pragma once

#include <nixbuild/sandbox/guest_protocol.hpp>

#include <cstddef>
#include <string>
#include <string_view>

/// What a program that plays an emulator with a guest in it needs: the three ports that QEMU's
/// command line names, and the guest's side of the protocol on them. For programs that do nothing
/// else: every call ends the process when the host has gone.
namespace nixbuild::tests {

class EmulatorPorts {
public:
  /// Takes the descriptors from the arguments `socket,id=ctl,fd=N`, `…log…` and `…out…`.
  EmulatorPorts(int argc, char** argv);

  void say(const sandbox::guest::FromGuest& message) const;
  /// Waits for the host's next message.
  [[nodiscard]] sandbox::guest::ToGuest hear();
  void put_control(std::string_view bytes) const;
  void put_log(std::string_view bytes) const;
  void put_output(std::string_view bytes) const;

private:
  int control_ = -1;
  int log_ = -1;
  int output_ = -1;
  sandbox::guest::FrameBuffer frames_{sandbox::guest::kMaxHostPayload};
};

/// A length as the output port has it: four bytes, little-endian.
[[nodiscard]] std::string port_length(std::size_t size);

} // namespace nixbuild::tests
