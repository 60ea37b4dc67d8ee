// Plays an emulator whose guest builds on paper, for tests of a whole daemon with its runners: the
// builder's environment says what it does, and no processor time is spent on a machine.
//
//     paperMs        how long the build takes, in ten lines of log
//     paperContents  what each output's one file holds
//     paperExit      its exit status
//     paperFlood     KiB of log that come beside each of the lines
//     paperLock      a file that is locked meanwhile: a second run at the same time fails
//
// While a file called `share/qemu/refuse` lies in its prefix it does not start at all.

#include "support/emulator_ports.hpp"
#include "support/fake_executor.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

constexpr int kLines = 10;

std::string variable(const GuestJob& job, std::string_view name) {
  for (const auto& [key, value] : job.environment) {
    if (key == name) {
      return value;
    }
  }
  return {};
}

/// The builder's run: its exit status.
int build(const tests::EmulatorPorts& ports, const GuestJob& job, std::uint64_t& log_bytes) {
  const auto say = [&](const std::string& line) {
    ports.put_log(line);
    log_bytes += line.size();
  };
  const auto lock = variable(job, "paperLock");
  if (!lock.empty()) {
    const int held = ::open(lock.c_str(), O_RDONLY | O_CLOEXEC); // until this process ends
    if (held < 0 || ::flock(held, LOCK_EX | LOCK_NB) != 0) {
      say(held < 0 ? "the lock cannot be seen from here\n" : "this build runs twice at once\n");
      return 9;
    }
  }
  const auto time = std::chrono::milliseconds(std::atol(variable(job, "paperMs").c_str()));
  const auto flood = static_cast<std::size_t>(std::atol(variable(job, "paperFlood").c_str()));
  const std::string filler = std::string(1023, '.') + "\n";
  for (int i = 0; i < kLines; ++i) {
    say("paper line " + std::to_string(i) + "\n");
    for (std::size_t kib = 0; kib < flood; ++kib) {
      say(filler);
    }
    std::this_thread::sleep_for(time / kLines);
  }
  return std::atoi(variable(job, "paperExit").c_str());
}

[[noreturn]] void serve_outputs(tests::EmulatorPorts& ports, const GuestJob& job) {
  const auto nar = tests::nar_of_file(variable(job, "paperContents"));
  for (;;) {
    const auto request = ports.hear();
    if (std::holds_alternative<guest::PowerOff>(request)) {
      std::exit(0);
    }
    ports.put_output(tests::port_length(nar.size()) + nar + tests::port_length(0));
    guest::OutputEnd end;
    end.index = std::get<guest::SendOutput>(request).index;
    ports.say(end);
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::puts("paper emulator");
    return 0;
  }
  const auto refuse =
      std::filesystem::path(argv[0]).parent_path().parent_path() / "share/qemu/refuse";
  if (::access(refuse.c_str(), F_OK) == 0) {
    std::fputs("Could not access KVM kernel module: Permission denied\n", stderr);
    return 1;
  }
  tests::EmulatorPorts ports(argc, argv);
  ports.say(guest::Hello{});
  const auto job = std::get<guest::Job>(ports.hear()).job;
  ports.say(guest::Started{});
  guest::Exited exited;
  exited.exit.code = build(ports, job, exited.exit.log_bytes);
  exited.exit.outputs.resize(job.outputs.size());
  for (auto& output : exited.exit.outputs) {
    output.present = true;
  }
  ports.say(exited);
  serve_outputs(ports, job);
}
