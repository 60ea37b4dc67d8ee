// Plays an emulator with a guest in it, good or bad, for tests of the runner and the executor:
// takes the descriptors of the three ports from QEMU's command line and the role from the kernel's
// (`role=…`), and speaks the guest protocol without a machine.

#include "support/emulator_ports.hpp"

#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

guest::Job begin(tests::EmulatorPorts& ports) {
  ports.say(guest::Hello{guest::kProtocolVersion, std::chrono::microseconds(1234)});
  return std::get<guest::Job>(ports.hear());
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
[[noreturn]] void
serve_outputs(tests::EmulatorPorts& ports, const guest::Job& job, std::size_t size) {
  for (;;) {
    const auto request = ports.hear();
    if (std::holds_alternative<guest::PowerOff>(request)) {
      std::exit(0);
    }
    const auto index = std::get<guest::SendOutput>(request).index;
    const auto& name = job.job.outputs.at(index).store_name;
    if (name == "broken") {
      ports.put_output(tests::port_length(5) + "begun" + tests::port_length(0));
      ports.say(guest::OutputEnd{index, "broken is a socket"});
      continue;
    }
    std::string contents = name;
    contents.resize(size, 'x');
    for (std::size_t at = 0; at < contents.size(); at += 100'000) {
      const auto piece = contents.substr(at, 100'000);
      ports.put_output(tests::port_length(piece.size()) + piece);
    }
    ports.put_output(tests::port_length(0));
    ports.say(guest::OutputEnd{index, {}});
  }
}

[[noreturn]] void play_good(tests::EmulatorPorts& ports,
                            std::size_t log_bytes,
                            std::size_t output_bytes,
                            std::int32_t code = 7) {
  const auto job = begin(ports);
  ports.say(guest::Started{});
  std::string line = "the builder is " + job.job.builder + "\n";
  std::size_t written = 0;
  do {
    ports.put_log(line);
    written += line.size();
  } while (written < log_bytes);
  auto exited = exit_of(job, written);
  exited.exit.code = code;
  ports.say(exited);
  serve_outputs(ports, job, output_bytes);
}

/// Roles that break the rules after a good start.
[[noreturn]] void play_bad(tests::EmulatorPorts& ports, std::string_view role) {
  if (role == "silent") {
    ::pause();
  } else if (role == "panic") {
    std::fputs("Kernel panic - not syncing: role\n", stderr);
    std::exit(0); // as QEMU does
  } else if (role == "refused") {
    std::fputs("Could not access KVM kernel module: Permission denied\n", stderr);
    std::exit(1);
  } else if (role == "killed") {
    (void)::raise(SIGKILL);
  } else if (role == "cannot-mount") {
    (void)begin(ports);
    ports.say(guest::Failure{"mounting erofs on '/inputs': No such device"});
  } else if (role == "garbage") {
    ports.put_control(std::string(100, '\xee'));
  } else if (role == "huge-frame") {
    ports.put_control(std::string("\xff\xff\xff\x7f\x01\x00\x00\x00", 8));
  } else if (role == "old-version") {
    ports.say(guest::Hello{99, {}});
  } else if (role == "exit-first") {
    ports.say(guest::Exited{});
  } else if (role == "early-log") {
    ports.put_log("before the job");
  } else {
    const auto job = begin(ports);
    ports.say(guest::Started{});
    if (role == "patient") {
      ports.put_log("half a line");
      ::usleep(2'000'000);
      ports.say(exit_of(job, 11));
      serve_outputs(ports, job, 1000);
    } else if (role == "gives-up") {
      ports.say(guest::Failure{"no inputs"});
    } else if (role == "many-outputs") {
      auto exited = exit_of(job, 0);
      exited.exit.outputs.resize(9);
      ports.say(exited);
    } else if (role == "unasked-output") {
      ports.say(exit_of(job, 0));
      ports.say(guest::OutputEnd{5, {}});
    } else if (role == "stalls-in-output") {
      ports.say(exit_of(job, 0));
      (void)ports.hear();
      ports.say(guest::OutputEnd{0, {}}); // and no byte of it
    } else if (role == "dies-in-output") {
      ports.say(exit_of(job, 0));
      (void)ports.hear();
      ports.put_output(tests::port_length(1000) + "half");
      std::exit(0);
    } else if (role == "log-after-end") {
      ports.say(exit_of(job, 0));
      ports.put_log("afterwards");
    } else if (role == "endless-log") {
      const std::string piece(65536, 'l');
      for (;;) {
        ports.put_log(piece);
      }
    }
  }
  for (;;) {
    ::pause();
  }
}

} // namespace

int main(int argc, char** argv) {
  std::string role;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (const auto at = argument.find("role="); at != std::string_view::npos) {
      role = argument.substr(at + 5);
    }
  }
  tests::EmulatorPorts ports(argc, argv);
  if (role == "good") {
    play_good(ports, 1, 300'000);
  } else if (role == "works") {
    play_good(ports, 1, 1, 0);
  } else if (role == "verbose") {
    play_good(ports, 20'000'000, 1000);
  } else if (role == "large-output") {
    play_good(ports, 1, 50'000'000);
  }
  play_bad(ports, role);
}
