#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>

#include <chrono>
#include <string>

/// Does a machine of this host come as far as every build has to: its kernel boots and takes its
/// modules, the input disk is mounted and read, a builder runs and ends?
namespace nixbuild::sandbox {

struct MachineTrial {
  bool works = false;
  Accelerator accelerator = Accelerator::Tcg; ///< of the machine that worked, or the last one tried
  /// An earlier trial of the same kernel, modules and guest worked; none was made now.
  bool remembered = false;
  std::string reason;      ///< why no machine worked
  std::string kvm_trouble; ///< why KVM was not enough, where emulation was
  std::chrono::milliseconds took{0};
};

/// Whether a machine of these settings is known to work. Cheap; makes no machine. Errors: as
/// find_or_import_kernel, and `sandbox.spawn` (a program is missing).
[[nodiscard]] NIXBUILD_API bool machine_is_known_to_work(const QemuExecutorSettings& settings);

/// Makes a machine as a build's, in the same jail under a uid that no build has, with a job and an
/// input disk of its own. Under `Auto`, where KVM does not do, emulation is tried behind it. That
/// one worked is remembered beside the kernel. Blocks: 0.5 s under KVM, some 5 s under emulation,
/// at most two times the guest's patience. Errors: what keeps a machine from being made at all, as
/// make_qemu_executor and `sandbox.kernel-…`.
[[nodiscard]] NIXBUILD_API MachineTrial try_machine(QemuExecutorSettings settings);

} // namespace nixbuild::sandbox
