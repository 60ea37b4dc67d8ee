#pragma once

#include <nixbuild/sandbox/guest_job.hpp>

#include <chrono>
#include <cstdint>
#include <optional>

namespace nixbuild::build {

/// What the host knows about a machine, whatever its guest says.
struct MachineFacts {
  unsigned cpus = 1;
  std::uint64_t memory_bytes = 0;
  std::uint64_t scratch_bytes = 0;
  std::chrono::microseconds age{0};             ///< since the machine was started
  std::optional<std::chrono::microseconds> cpu; ///< that its emulator took while the builder ran
};

/// The exit with every figure within what is possible on such a machine.
[[nodiscard]] sandbox::GuestExit believable(sandbox::GuestExit exit, const MachineFacts& facts);

} // namespace nixbuild::build
