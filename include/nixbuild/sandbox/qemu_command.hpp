#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// The machine of one build as a QEMU command line. Pure: values in, arguments out.
namespace nixbuild::sandbox {

enum class Accelerator : std::uint8_t { Kvm, Tcg };

/// `kvm` or `tcg`.
[[nodiscard]] NIXBUILD_API std::string_view name_of(Accelerator accelerator) noexcept;

/// Names of the virtio-serial ports, looked up by the guest in /sys/class/virtio-ports.
inline constexpr std::string_view kControlPort = "nixbuild.ctl";
inline constexpr std::string_view kLogPort = "nixbuild.log";
inline constexpr std::string_view kOutputPort = "nixbuild.out";
inline constexpr std::string_view kStorePort = "nixbuild.nix"; ///< only with a store socket
/// Serial number of the input disk.
inline constexpr std::string_view kInputsSerial = "inputs";
/// Serial number of the scratch disk.
inline constexpr std::string_view kScratchSerial = "scratch";

/// All that QEMU opens comes as one of these descriptors; their numbers stay the same in QEMU.
struct QemuDescriptors {
  int kernel = -1;
  int initramfs = -1;
  int disk = -1;            ///< the VMDK descriptor; fd set 1
  std::vector<int> extents; ///< fd sets 2, 3, …
  int control = -1;         ///< connected stream sockets
  int log = -1;
  int output = -1;
  std::optional<int> network{}; ///< connected to the network helper
  std::optional<int> store{};   ///< for a machine with a store socket
  std::optional<int> scratch{}; ///< a file system for what a builder writes; the last fd set
};

struct QemuMachine {
  std::string binary = "/usr/bin/qemu-system-x86_64";
  Accelerator accelerator = Accelerator::Tcg;
  unsigned cpus = 1;
  std::uint64_t memory_bytes = 512 * kMiB;
  bool debug_console = false; ///< kernel messages on QEMU's standard output
  std::string kernel_options; ///< appended to the kernel's command line
};

struct QemuCommand {
  std::vector<std::string> arguments; ///< argv, the binary first
  std::vector<int> descriptors;       ///< what must be open in QEMU, beside 0, 1, 2
};

/// Path under which QEMU opens extent `index` of the disk.
[[nodiscard]] NIXBUILD_API std::string extent_path(std::size_t index);

/// Errors: `sandbox.machine` (no CPU or more than 1024, memory below 128 MiB or above 64 TiB).
[[nodiscard]] NIXBUILD_API QemuCommand qemu_command(const QemuMachine& machine,
                                                    const QemuDescriptors& descriptors);

} // namespace nixbuild::sandbox
