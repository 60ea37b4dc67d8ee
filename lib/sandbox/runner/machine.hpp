#pragma once

#include "sandbox/runner/network_helper.hpp"
#include "sandbox/runner/scratch_disk.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/cgroup.hpp>
#include <nixbuild/sandbox/jail.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>
#include <nixbuild/sandbox/vmdk.hpp>

#include <optional>
#include <string>

namespace nixbuild::sandbox::runner {

/// A uid of the pool, held by a lock on a file as long as this process lives: two machines under
/// one uid could signal each other.
class UidSlot {
public:
  /// Errors: `sandbox.spawn` (pool exhausted).
  UidSlot(const std::string& directory, std::uint32_t base, std::uint32_t count);

  [[nodiscard]] uid_t uid() const noexcept { return uid_; }

private:
  UniqueFd lock_;
  uid_t uid_ = 0;
};

/// What not every machine has.
struct MachineExtras {
  bool network = false;
  bool store = false;
  const ScratchDisk* scratch = nullptr;
};

/// The emulator with this side's ends of its ports.
class Machine {
  std::optional<UidSlot> slot_; // first: given back only after the processes are gone
  MachineCgroup cgroup_;
  std::optional<NetworkHelper> network_;

public:
  /// Starts it, with a network device where `wants.network` is set and there is a helper for it,
  /// a store port where `wants.store` is, and the scratch disk; the working directory is the run
  /// folder. Errors: `sandbox.spawn`, `sandbox.machine`, `sandbox.disk`.
  Machine(const Start& start,
          const UniqueFd& kernel,
          const UniqueFd& initramfs,
          MappedDisk disk,
          MachineExtras wants);

  UniqueFd control;
  UniqueFd log;
  UniqueFd output;
  UniqueFd store; ///< only for a job with a store socket
  JailedProcess process;

  /// Writes the limits of the control group again, where somebody had to switch them off.
  void limit() { cgroup_.limit(); }

  /// The network of this machine; null: it has none.
  [[nodiscard]] NetworkHelper* network() { return network_ ? &*network_ : nullptr; }

  /// Processor time of the emulator until now; zeros when it is gone.
  [[nodiscard]] Measured measure() const;

  /// Why the kernel has ended the emulator, where that is known; empty: it is not.
  [[nodiscard]] std::string fate() const;

  /// The end of what the emulator said on its standard error, for messages.
  [[nodiscard]] static std::string last_words();
};

} // namespace nixbuild::sandbox::runner
