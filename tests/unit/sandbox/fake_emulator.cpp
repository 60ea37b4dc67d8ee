// Plays an emulator with a guest in it, good or bad, for tests of the runner and the executor:
// takes the descriptors of the three ports from QEMU's command line and the role from the kernel's
// (`role=…`), and speaks the guest protocol without a machine.

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

int control = -1;
int log_port = -1;
int output = -1;
guest::FrameBuffer from_host(guest::kMaxHostPayload);

void put(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      std::exit(3);
    }
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

void say(guest::FromGuest message) {
  put(control, guest::encode(message));
}

guest::ToGuest hear() {
  for (;;) {
    if (const auto frame = from_host.next()) {
      return guest::decode_to_guest(*frame);
    }
    std::uint8_t buffer[4096];
    const auto got = ::recv(control, buffer, sizeof buffer, 0);
    if (got <= 0) {
      std::exit(0);
    }
    from_host.feed(ByteView(buffer, static_cast<std::size_t>(got)));
  }
}

std::string length(std::size_t size) {
  std::string bytes;
  for (int i = 0; i < 4; ++i) {
    bytes.push_back(static_cast<char>(size >> (8 * i) & 0xff));
  }
  return bytes;
}

guest::Job begin() {
  say(guest::Hello{guest::kProtocolVersion, std::chrono::microseconds(1234)});
  return std::get<guest::Job>(hear());
}

guest::Exited exit_of(const guest::Job& job, std::size_t log_bytes) {
  guest::Exited exited;
  exited.exit.code = 7;
  exited.exit.log_bytes = log_bytes;
  exited.exit.outputs.resize(job.job.outputs.size());
  for (auto& state : exited.exit.outputs) {
    state.present = true;
  }
  return exited;
}

/// Gives each output asked for: its name and then a filler; `size` bytes in all.
[[noreturn]] void serve_outputs(const guest::Job& job, std::size_t size) {
  for (;;) {
    const auto request = hear();
    if (std::holds_alternative<guest::PowerOff>(request)) {
      std::exit(0);
    }
    const auto index = std::get<guest::SendOutput>(request).index;
    const auto& name = job.job.outputs.at(index).store_name;
    if (name == "broken") {
      put(output, length(5) + "begun" + length(0));
      say(guest::OutputEnd{index, "broken is a socket"});
      continue;
    }
    std::string contents = name;
    contents.resize(size, 'x');
    for (std::size_t at = 0; at < contents.size(); at += 100'000) {
      const auto piece = contents.substr(at, 100'000);
      put(output, length(piece.size()) + piece);
    }
    put(output, length(0));
    say(guest::OutputEnd{index, {}});
  }
}

[[noreturn]] void play_good(std::size_t log_bytes, std::size_t output_bytes) {
  const auto job = begin();
  say(guest::Started{});
  std::string line = "the builder is " + job.job.builder + "\n";
  std::size_t written = 0;
  do {
    put(log_port, line);
    written += line.size();
  } while (written < log_bytes);
  say(exit_of(job, written));
  serve_outputs(job, output_bytes);
}

/// Roles that break the rules after a good start.
[[noreturn]] void play_bad(std::string_view role) {
  if (role == "silent") {
    ::pause();
  } else if (role == "panic") {
    std::fputs("Kernel panic - not syncing: role\n", stderr);
    std::exit(0); // as QEMU does
  } else if (role == "garbage") {
    put(control, std::string(100, '\xee'));
  } else if (role == "huge-frame") {
    put(control, std::string("\xff\xff\xff\x7f\x01\x00\x00\x00", 8));
  } else if (role == "old-version") {
    say(guest::Hello{99, {}});
  } else if (role == "exit-first") {
    say(guest::Exited{});
  } else if (role == "early-log") {
    put(log_port, "before the job");
  } else {
    const auto job = begin();
    say(guest::Started{});
    if (role == "gives-up") {
      say(guest::Failure{"no inputs"});
    } else if (role == "many-outputs") {
      auto exited = exit_of(job, 0);
      exited.exit.outputs.resize(9);
      say(exited);
    } else if (role == "unasked-output") {
      say(exit_of(job, 0));
      say(guest::OutputEnd{5, {}});
    } else if (role == "stalls-in-output") {
      say(exit_of(job, 0));
      (void)hear();
      say(guest::OutputEnd{0, {}}); // and no byte of it
    } else if (role == "dies-in-output") {
      say(exit_of(job, 0));
      (void)hear();
      put(output, length(1000) + "half");
      std::exit(0);
    } else if (role == "log-after-end") {
      say(exit_of(job, 0));
      put(log_port, "afterwards");
    } else if (role == "endless-log") {
      const std::string piece(65536, 'l');
      for (;;) {
        put(log_port, piece);
      }
    }
  }
  for (;;) {
    ::pause();
  }
}

int number_after(std::string_view argument, std::string_view mark) {
  const auto at = argument.find(mark);
  int number = -1;
  if (at != std::string_view::npos) {
    std::from_chars(argument.data() + at + mark.size(), argument.data() + argument.size(), number);
  }
  return number;
}

} // namespace

int main(int argc, char** argv) {
  std::string role;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("socket,id=ctl")) {
      control = number_after(argument, "fd=");
    } else if (argument.starts_with("socket,id=log")) {
      log_port = number_after(argument, "fd=");
    } else if (argument.starts_with("socket,id=out")) {
      output = number_after(argument, "fd=");
    } else if (const auto at = argument.find("role="); at != std::string_view::npos) {
      role = argument.substr(at + 5);
    }
  }
  if (role == "good") {
    play_good(1, 300'000);
  } else if (role == "verbose") {
    play_good(20'000'000, 1000);
  } else if (role == "large-output") {
    play_good(1, 50'000'000);
  }
  play_bad(role);
}
