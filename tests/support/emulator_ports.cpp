#include "support/emulator_ports.hpp"

#include <nixbuild/base/bytes.hpp>

#include <sys/socket.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>

namespace nixbuild::tests {

namespace guest = sandbox::guest;

namespace {

void put(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      std::exit(3);
    }
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

int descriptor_in(std::string_view argument) {
  constexpr std::string_view mark = "fd=";
  const auto at = argument.find(mark);
  int number = -1;
  if (at != std::string_view::npos) {
    std::from_chars(argument.data() + at + mark.size(), argument.data() + argument.size(), number);
  }
  return number;
}

} // namespace

EmulatorPorts::EmulatorPorts(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("socket,id=ctl")) {
      control_ = descriptor_in(argument);
    } else if (argument.starts_with("socket,id=log")) {
      log_ = descriptor_in(argument);
    } else if (argument.starts_with("socket,id=out")) {
      output_ = descriptor_in(argument);
    }
  }
}

void EmulatorPorts::say(const guest::FromGuest& message) const {
  put(control_, guest::encode(message));
}

guest::ToGuest EmulatorPorts::hear() {
  for (;;) {
    if (const auto frame = frames_.next()) {
      return guest::decode_to_guest(*frame);
    }
    std::uint8_t buffer[4096];
    const auto got = ::recv(control_, buffer, sizeof buffer, 0);
    if (got <= 0) {
      std::exit(0);
    }
    frames_.feed(ByteView(buffer, static_cast<std::size_t>(got)));
  }
}

void EmulatorPorts::put_control(std::string_view bytes) const {
  put(control_, bytes);
}

void EmulatorPorts::put_log(std::string_view bytes) const {
  put(log_, bytes);
}

void EmulatorPorts::put_output(std::string_view bytes) const {
  put(output_, bytes);
}

std::string port_length(std::size_t size) {
  std::string bytes;
  for (int i = 0; i < 4; ++i) {
    bytes.push_back(static_cast<char>(size >> (8 * i) & 0xff));
  }
  return bytes;
}

} // namespace nixbuild::tests
