#pragma once

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/cgroup.hpp>
#include <nixbuild/sandbox/egress.hpp>

#include <sys/types.h>

#include <string>

namespace nixbuild::sandbox::runner {

/// The network of one fixed-output build, in two processes beside the emulator, so that no packet
/// of a guest is parsed inside it: a filter that lets out what the rules permit, and behind it
/// passt, which carries connections without any privilege. No port of the host leads in, the host's
/// loopback is not reachable. Both die with this object and with this process.
class NetworkHelper {
public:
  /// Runs as user `uid` where that is not 0. Forks: only in a process of one thread. Errors:
  /// `sandbox.spawn`.
  NetworkHelper(const std::string& program, uid_t uid, const EgressRules& rules);
  ~NetworkHelper();
  NetworkHelper(const NetworkHelper&) = delete;
  NetworkHelper& operator=(const NetworkHelper&) = delete;

  /// The emulator's end of the connection.
  [[nodiscard]] int emulator_end() const noexcept { return emulator_end_.get(); }

  /// Puts both processes into the machine's control group, where it has one.
  void join(MachineCgroup& cgroup) const;

  /// Descriptors that become readable when one of the processes has ended; -1: it was told.
  [[nodiscard]] int passt_end() const noexcept { return passt_end_.get(); }

  [[nodiscard]] int filter_end() const noexcept { return filter_end_.get(); }

  /// How a process ended that has ended since the last call, in words; empty: none has.
  [[nodiscard]] std::string what_ended();

  /// Once the emulator has its copy.
  void close_emulator_end() noexcept { emulator_end_.reset(); }

private:
  UniqueFd emulator_end_;
  pid_t passt_ = -1;
  pid_t filter_ = -1;
  UniqueFd passt_end_;
  UniqueFd filter_end_;
};

} // namespace nixbuild::sandbox::runner
