#pragma once

#include <nixbuild/base/clock.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/server/late_executor.hpp>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

namespace nixbuild::server {

/// What keeps this host from running machines as it should, for everybody who is to know: the log,
/// metrics, and a file in the state directory that `nixbuild doctor` reads. Thread safe.
class HostFaults {
public:
  /// Forgets what an earlier daemon found.
  HostFaults(std::filesystem::path state_dir, const Clock& clock, Log& log);

  /// No machine works, for this reason.
  void closed(const std::string& reason);
  /// KVM is not used any more, for this reason.
  void without_kvm(const std::string& reason);
  /// A machine ended by a fault of the host that the next one does not have.
  void passed(const std::string& reason);
  /// Machines work again; says so where they did not.
  void works();

  [[nodiscard]] bool is_closed() const noexcept { return closed_.load(); }

  [[nodiscard]] bool is_without_kvm() const noexcept { return without_kvm_.load(); }

  /// Machines that ended by a fault of the host, and attempts to make one that failed.
  [[nodiscard]] std::uint64_t count() const noexcept { return count_.load(); }

private:
  void write_down(const std::string& what, const std::string& reason);

  std::filesystem::path file_;
  const Clock& clock_;
  Log& log_;
  std::mutex mutex_;
  std::atomic<bool> closed_{false};
  std::atomic<bool> without_kvm_{false};
  std::atomic<std::uint64_t> count_{0};
};

/// Has an executor tell there what it finds. The faults outlive it.
[[nodiscard]] LateExecutor::Told teller_of(HostFaults& faults);

/// What the file says, for people; nothing where no daemon has found a fault.
[[nodiscard]] std::optional<std::string> host_fault_in(const std::filesystem::path& state_dir);

} // namespace nixbuild::server
