#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/sandbox/qemu_command.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

/// Is KVM there for real (decision D11)? `/dev/kvm` existing proves nothing: under some nested
/// hypervisors it runs guests through an instruction emulator that fails or crawls.
namespace nixbuild::sandbox {

enum class AcceleratorChoice : std::uint8_t { Auto, Kvm, Tcg };

/// From the setting's text: `auto`, `kvm`, `tcg`. Error `sandbox.accelerator`.
[[nodiscard]] NIXBUILD_API AcceleratorChoice accelerator_choice_of(std::string_view text);

struct AcceleratorProbe {
  Accelerator accelerator = Accelerator::Tcg;
  std::string reason; ///< for people: why this one
  std::chrono::microseconds took{0};
};

/// Runs a 64-bit guest with a loop and an INT3 under KVM in a process of its own, which is killed
/// at the deadline. Never throws for a KVM that does not work: the reason says it.
[[nodiscard]] NIXBUILD_API AcceleratorProbe
probe_kvm(std::chrono::milliseconds deadline = std::chrono::milliseconds(2000));

/// `Auto` probes; `Kvm` probes too and throws `sandbox.accelerator` when KVM does not work; `Tcg`
/// takes emulation without a look.
[[nodiscard]] NIXBUILD_API AcceleratorProbe choose_accelerator(AcceleratorChoice choice);

} // namespace nixbuild::sandbox
