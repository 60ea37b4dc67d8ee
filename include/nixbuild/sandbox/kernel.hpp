#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Guest kernels (decision D12): any distribution kernel from 5.4 with virtio and EROFS
/// is imported once into a cache folder: the uncompressed `vmlinux` where the image can be opened,
/// and the modules that a build machine needs, in load order.
namespace nixbuild::sandbox {

/// A kernel as a distribution installs it.
struct KernelSource {
  std::filesystem::path image;   ///< bzImage or ELF (`/boot/vmlinuz-…`)
  std::filesystem::path modules; ///< folder that holds `modules.builtin`; empty: all is built in
  std::string version;           ///< release (`6.1.0-56-cloud-amd64`); empty: read from the image

  bool operator==(const KernelSource&) const = default;
};

/// A module that the guest loads, uncompressed, in the cache.
struct KernelModule {
  std::string name; ///< with underscores (`virtio_pci`)
  std::filesystem::path file;
  std::string sha256;     ///< hexadecimal
  bool on_demand = false; ///< only when the guest's kernel asks for it
};

/// A kernel in the cache. Files are mode 0444 and never change.
struct ImportedKernel {
  std::filesystem::path directory;
  std::filesystem::path image; ///< `vmlinux` (ELF with PVH entry) or `bzImage`
  bool elf = false;            ///< `image` is an ELF with a PVH entry: the fast way to start
  std::string version;
  std::string image_sha256;          ///< of `image`, hexadecimal
  std::vector<KernelModule> modules; ///< in load order
};

/// The uncompressed kernel inside a bzImage, or nothing when its compression is unknown (the image
/// itself is started then). gzip, xz, lzma, bzip2, LZ4 (legacy frame), zstd. Source: Linux
/// Documentation/arch/x86/boot.rst, payload_offset, protocol 2.08.
/// Errors: `sandbox.kernel-image` (no bzImage, broken payload, more than 512 MiB).
[[nodiscard]] NIXBUILD_API std::optional<Bytes> extract_kernel(ByteView image);

/// Release text in a bzImage's header (the first word of `kernel_version`); empty when absent.
[[nodiscard]] NIXBUILD_API std::string kernel_release(ByteView image);

/// True for an x86-64 ELF with a PVH entry note, which QEMU starts directly.
[[nodiscard]] NIXBUILD_API bool is_pvh_elf(ByteView image) noexcept;

/// Names that `modules` (a folder with `modules.builtin` and `modules.dep` or the modules
/// themselves) has to load for `wanted`, dependencies first, each once; built-in ones left out.
/// Soft dependencies count as well (a module's algorithms, by their names), where they are there.
/// A wanted one that does not exist is left out when it is listed in `optional`, else error
/// `sandbox.kernel-module`.
struct ModuleFile {
  std::string name;
  std::filesystem::path file; ///< as installed, maybe compressed
};

[[nodiscard]] NIXBUILD_API std::vector<ModuleFile>
module_load_order(const std::filesystem::path& modules,
                  std::span<const std::string_view> wanted,
                  std::span<const std::string_view> optional);

/// The newest kernel that has both an image and modules: `/boot/vmlinuz-V` with
/// `/lib/modules/V`, or `/run/current-system/kernel`. `root` is put before these paths (tests).
/// Errors: `sandbox.kernel-none` (none found), `sandbox.kernel-unreadable` (found, but this user
/// may not read the newest image; `chmod` or an explicit import helps).
[[nodiscard]] NIXBUILD_API KernelSource newest_kernel(const std::filesystem::path& root = "/");

/// Imports into `cache` (made when missing) and returns the entry; atomic, and safe beside other
/// importers. Errors: `sandbox.kernel-image`, `sandbox.kernel-module`, `sandbox.kernel-unreadable`,
/// `sandbox.kernel-cache`.
NIXBUILD_API ImportedKernel import_kernel(const std::filesystem::path& cache,
                                          const KernelSource& source);

/// The cached entry of `source` (of the newest kernel where none is given) when the source files
/// have not changed since, else imports it. Where no source can be read, the newest cache entry is
/// taken. Cost when cached: a few stat calls. Errors: as import_kernel and newest_kernel.
NIXBUILD_API ImportedKernel find_or_import_kernel(const std::filesystem::path& cache,
                                                  const std::optional<KernelSource>& source);

} // namespace nixbuild::sandbox
