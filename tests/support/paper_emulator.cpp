// Plays an emulator whose guest builds on paper, for tests of a whole daemon with its runners: the
// builder's environment says what it does, and no processor time is spent on a machine.
//
//     paperMs        how long the build takes, in ten lines of log
//     paperContents  what each output's one file holds
//     paperExit      its exit status
//     paperLock      a file that is locked meanwhile: a second run at the same time fails

#include "support/fake_executor.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

constexpr int kLines = 10;

struct Ports {
  int control = -1;
  int log = -1;
  int output = -1;
};

void put(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      std::exit(3);
    }
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

guest::ToGuest hear(int control, guest::FrameBuffer& frames) {
  for (;;) {
    if (const auto frame = frames.next()) {
      return guest::decode_to_guest(*frame);
    }
    std::uint8_t buffer[4096];
    const auto got = ::recv(control, buffer, sizeof buffer, 0);
    if (got <= 0) {
      std::exit(0);
    }
    frames.feed(ByteView(buffer, static_cast<std::size_t>(got)));
  }
}

std::string variable(const GuestJob& job, std::string_view name) {
  for (const auto& [key, value] : job.environment) {
    if (key == name) {
      return value;
    }
  }
  return {};
}

std::string length(std::size_t size) {
  std::string bytes;
  for (int i = 0; i < 4; ++i) {
    bytes.push_back(static_cast<char>(size >> (8 * i) & 0xff));
  }
  return bytes;
}

/// The builder's run: its exit status.
int build(const Ports& ports, const GuestJob& job, std::uint64_t& log_bytes) {
  const auto say = [&](const std::string& line) {
    put(ports.log, line);
    log_bytes += line.size();
  };
  const auto lock = variable(job, "paperLock");
  // Kept until this process ends.
  if (const int held = lock.empty() ? -1 : ::open(lock.c_str(), O_RDONLY | O_CLOEXEC);
      held >= 0 && ::flock(held, LOCK_EX | LOCK_NB) != 0) {
    say("this build runs twice at once\n");
    return 9;
  }
  const auto time = std::chrono::milliseconds(std::atol(variable(job, "paperMs").c_str()));
  for (int i = 0; i < kLines; ++i) {
    say("paper line " + std::to_string(i) + "\n");
    std::this_thread::sleep_for(time / kLines);
  }
  return std::atoi(variable(job, "paperExit").c_str());
}

[[noreturn]] void
serve_outputs(const Ports& ports, const GuestJob& job, guest::FrameBuffer& frames) {
  const auto nar = tests::nar_of_file(variable(job, "paperContents"));
  for (;;) {
    const auto request = hear(ports.control, frames);
    if (std::holds_alternative<guest::PowerOff>(request)) {
      std::exit(0);
    }
    put(ports.output, length(nar.size()) + nar + length(0));
    guest::OutputEnd end;
    end.index = std::get<guest::SendOutput>(request).index;
    put(ports.control, guest::encode(guest::FromGuest(end)));
  }
}

int descriptor_after(std::string_view argument, std::string_view mark) {
  const auto at = argument.find(mark);
  int number = -1;
  if (at != std::string_view::npos) {
    std::from_chars(argument.data() + at + mark.size(), argument.data() + argument.size(), number);
  }
  return number;
}

} // namespace

int main(int argc, char** argv) {
  Ports ports;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--version") {
      std::puts("paper emulator");
      return 0;
    }
    if (argument.starts_with("socket,id=ctl")) {
      ports.control = descriptor_after(argument, "fd=");
    } else if (argument.starts_with("socket,id=log")) {
      ports.log = descriptor_after(argument, "fd=");
    } else if (argument.starts_with("socket,id=out")) {
      ports.output = descriptor_after(argument, "fd=");
    }
  }
  guest::FrameBuffer frames(guest::kMaxHostPayload);
  put(ports.control, guest::encode(guest::FromGuest(guest::Hello{})));
  const auto job = std::get<guest::Job>(hear(ports.control, frames)).job;
  put(ports.control, guest::encode(guest::FromGuest(guest::Started{})));
  guest::Exited exited;
  exited.exit.code = build(ports, job, exited.exit.log_bytes);
  exited.exit.outputs.resize(job.outputs.size());
  for (auto& output : exited.exit.outputs) {
    output.present = true;
  }
  put(ports.control, guest::encode(guest::FromGuest(exited)));
  serve_outputs(ports, job, frames);
}
