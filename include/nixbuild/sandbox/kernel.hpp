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
  std::filesystem::path source;      ///< the image that it was made of
  bool imported = false;             ///< by hand, not found by itself
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

enum class KernelOrigin : std::uint8_t { FoundByItself, ImportedByHand };

/// Imports into `cache` (made when missing) and returns the entry; atomic, and safe beside other
/// importers. Errors: `sandbox.kernel-image`, `sandbox.kernel-module`, `sandbox.kernel-unreadable`,
/// `sandbox.kernel-cache`.
NIXBUILD_API ImportedKernel import_kernel(const std::filesystem::path& cache,
                                          const KernelSource& source,
                                          KernelOrigin origin = KernelOrigin::FoundByItself);

/// All entries of a cache, the newest version first. What is broken or of another version of this
/// project is left out.
[[nodiscard]] NIXBUILD_API std::vector<ImportedKernel>
cached_kernels(const std::filesystem::path& cache);

/// The kernel that builds use, and why that one.
struct KernelChoice {
  enum class Why : std::uint8_t {
    Configured, ///< the configuration names it
    Imported,   ///< what was imported by hand last
    Found,      ///< the newest of this host, of which nothing is imported by hand
    TakenOver,  ///< that one cannot be read (any more), but it was taken over before
  };

  Why why = Why::Found;
  std::optional<KernelSource> source;   ///< of Configured and Found
  std::optional<ImportedKernel> cached; ///< absent: still to be imported from `source`
};

/// `because the configuration names it`, …
[[nodiscard]] NIXBUILD_API std::string_view words_of(KernelChoice::Why why) noexcept;

/// What an operator has said comes before what lies about: the configured kernel, else the one
/// imported by hand last, else the newest of this host. `root` as for newest_kernel. Imports
/// nothing. Errors: as newest_kernel; `sandbox.kernel-image` (the source cannot be looked at).
[[nodiscard]] NIXBUILD_API KernelChoice choose_kernel(const std::filesystem::path& cache,
                                                      const std::optional<KernelSource>& configured,
                                                      const std::filesystem::path& root = "/");

/// That choice, imported where it is not in the cache or the source's files have changed since.
/// Cost when cached: a few stat calls. Errors: as choose_kernel and import_kernel.
NIXBUILD_API ImportedKernel find_or_import_kernel(const std::filesystem::path& cache,
                                                  const std::optional<KernelSource>& configured);

/// Takes an entry out of its cache. It may be in use: whoever has opened its files keeps them.
NIXBUILD_API void forget_kernel(const ImportedKernel& kernel) noexcept;

} // namespace nixbuild::sandbox
