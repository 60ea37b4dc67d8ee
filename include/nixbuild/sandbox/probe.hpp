#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/sandbox/qemu_command.hpp>

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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

/// The groups that a process of its own uid is given for /dev/kvm: the one that the device belongs
/// to, but for root's.
[[nodiscard]] NIXBUILD_API std::vector<gid_t> kvm_groups();

struct KvmProbeSettings {
  /// The user that a machine's emulator is: the probing process first becomes this uid, with the
  /// gid of the same number and `kvm_groups`; what root may open is no answer for it. None: it
  /// stays what it is, as an emulator without a uid of its own.
  std::optional<uid_t> uid{};
  std::chrono::milliseconds deadline{2000};
  const char* device = "/dev/kvm";
};

/// Runs a 64-bit guest with a loop and an INT3 under KVM in a process of its own, which is killed
/// at the deadline. Never throws for a KVM that does not work: the reason says it.
[[nodiscard]] NIXBUILD_API AcceleratorProbe probe_kvm(const KvmProbeSettings& settings = {});

/// `Auto` probes; `Kvm` probes too and throws `sandbox.accelerator` when KVM does not work; `Tcg`
/// takes emulation without a look. `uid` as for probe_kvm.
[[nodiscard]] NIXBUILD_API AcceleratorProbe
choose_accelerator(AcceleratorChoice choice, std::optional<uid_t> uid = std::nullopt);

} // namespace nixbuild::sandbox
