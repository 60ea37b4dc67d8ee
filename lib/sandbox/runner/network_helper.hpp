#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <sys/types.h>

#include <string>

namespace nixbuild::sandbox::runner {

/// passt: the network of one fixed-output build, as a process of its own beside the emulator, so
/// that no packet of a guest is parsed inside the emulator. No port of the host leads in, the
/// host's loopback is not reachable. Dies with this object and with this process.
class NetworkHelper {
public:
  /// Name server that the guest is told; the helper forwards to the host's.
  static constexpr const char* kNameServer = "10.0.2.3";

  /// Runs as user `uid` where that is not 0. Errors: `sandbox.spawn`.
  NetworkHelper(const std::string& program, uid_t uid);
  ~NetworkHelper();
  NetworkHelper(const NetworkHelper&) = delete;
  NetworkHelper& operator=(const NetworkHelper&) = delete;

  /// The emulator's end of the connection.
  [[nodiscard]] int emulator_end() const noexcept { return emulator_end_.get(); }

  /// Once the emulator has its copy.
  void close_emulator_end() noexcept { emulator_end_.reset(); }

private:
  UniqueFd emulator_end_;
  pid_t pid_ = -1;
};

} // namespace nixbuild::sandbox::runner
