#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/sandbox/cgroup.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/sandbox/kernel.hpp>
#include <nixbuild/sandbox/probe.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// Builds in QEMU machines, each owned by a runner process that outlives this one.
namespace nixbuild::sandbox {

struct QemuExecutorSettings {
  std::filesystem::path runner;                   ///< nixbuild-runner
  std::filesystem::path guest;                    ///< nixbuild-guest, static
  std::filesystem::path busybox = "/bin/busybox"; ///< static; becomes the guest's /bin/sh
  /// nixbuild-builtin, static, for jobs with such a builder; empty: they fail in their machine.
  std::filesystem::path builtin;
  std::filesystem::path qemu = "/usr/bin/qemu-system-x86_64";
  /// passt, for fixed-output builds; empty or missing: such builds get no network device.
  std::filesystem::path network_helper = "/usr/bin/passt";
  /// Address blocks (parse_address_block) beyond the public internet that fixed-output builds may
  /// reach; one that cannot be read is an error of the build.
  std::vector<std::string> network_allow;
  /// mke2fs, for scratch disks; empty: looked for. Missing: what builders write lies in memory.
  std::filesystem::path disk_maker;
  std::filesystem::path
      run_directory; ///< one folder a build below it; made when missing, mode 0700
  std::filesystem::path kernel_cache;
  std::optional<KernelSource> kernel; ///< none: the newest of this host
  AcceleratorChoice accelerator = AcceleratorChoice::Auto;
  std::uint32_t uid_base = 700'000; ///< one uid a machine from here on, where this is root
  std::uint32_t uid_count = 1024;   ///< machines at most; the network helpers have as many behind
  CgroupHome cgroups;               ///< of prepare_cgroups; without a parent: none for machines
  Log* log = nullptr;               ///< is told when machines lack a wall; outlives the executor
  std::uint64_t log_limit_bytes = kGiB; ///< a build whose log grows beyond is killed
  /// How long a build that has ended holds its outputs for a daemon that comes back.
  std::chrono::seconds grace{3600};
  /// How long a builder runs on after its daemon has died; then the runner ends it and itself.
  std::chrono::seconds alone{6 * 3600};
  /// How long the guest may take to boot, to mount, and between two pieces of an output; zero: 60
  /// s, 300 s under emulation.
  std::chrono::seconds guest_patience{0};
  bool debug_console = false; ///< guest kernel messages go to the run folder's qemu.log
  std::string kernel_options; ///< appended to the guest kernel's command line
};

/// mke2fs where distributions have it; empty when there is none.
[[nodiscard]] NIXBUILD_API std::filesystem::path find_disk_maker();

/// The accelerator of machines with these settings, probed as the user that their emulators are.
/// Blocks, up to 2 s. Errors: `sandbox.accelerator`.
[[nodiscard]] NIXBUILD_API AcceleratorProbe accelerator_of(const QemuExecutorSettings& settings);

/// What the last machine of a run directory was walled in with, and what it did without, a line
/// each, as its executor wrote it down; nothing where none was started.
[[nodiscard]] NIXBUILD_API std::optional<WallReport>
walls_of_last_machine(const std::filesystem::path& run_directory);

/// Chooses the accelerator (up to 2 s), imports the kernel when it is not cached (up to 2 s) and
/// writes the initramfs. Blocks. Errors: `sandbox.accelerator`, `sandbox.kernel-…`,
/// `sandbox.spawn` (a program is missing), `sandbox.initramfs`.
[[nodiscard]] NIXBUILD_API std::unique_ptr<Executor>
make_qemu_executor(boost::asio::any_io_executor executor, QemuExecutorSettings settings);

} // namespace nixbuild::sandbox
