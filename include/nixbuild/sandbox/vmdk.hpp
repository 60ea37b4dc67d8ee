#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/executor.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

/// The composed input disk as QEMU sees it: a VMDK descriptor of FLAT extents, so that no byte is
/// copied but the small ones at the end.
namespace nixbuild::sandbox {

/// Opening costs QEMU more than linear time in the number of extents: 256 take 50 ms, 1024 320 ms.
inline constexpr std::size_t kMaxExtents = 255;
/// Accepted in a plan; all beyond kMaxExtents - 1 are copied into one file.
inline constexpr std::size_t kMaxPlanExtents = 1'000'000;

/// One line of a descriptor: `length` bytes of the file `path` from `offset` on.
struct VmdkExtent {
  std::string path;         ///< no quotes, no line ends, at most 511 bytes
  std::uint64_t offset = 0; ///< multiple of 512
  std::uint64_t length = 0; ///< multiple of 512, not 0
};

/// Text of a VMDK descriptor. QEMU's parser drops ZERO extents and reads the first extent twice
/// when a blank line stands before it; neither is written. Errors: `sandbox.disk` (sizes, path,
/// no extent).
[[nodiscard]] NIXBUILD_API std::string vmdk_descriptor(std::span<const VmdkExtent> extents);

/// Files and ranges that make up a disk, few enough for QEMU.
struct MappedDisk {
  std::vector<DiskExtent> extents; ///< at most kMaxExtents, in disk order
  std::uint64_t packed_bytes = 0;  ///< copied into the pack, the last extent
};

/// Takes a plan's extents one after the other, so that never more than kMaxExtents descriptors are
/// open. Keeps the first kMaxExtents - 1 extents by reference and gathers the rest, when there are
/// more, into one unlinked file in `directory`. Cost: copies the bytes of the rest, by reflink
/// where the file system can. Errors: `sandbox.disk` (empty plan, odd sizes, an extent beyond its
/// file's end).
class NIXBUILD_API DiskMapper {
public:
  /// `total` extents will be added.
  DiskMapper(std::size_t total, std::filesystem::path directory);
  void add(DiskExtent extent);
  /// Error `sandbox.disk` when fewer or more than `total` were added.
  [[nodiscard]] MappedDisk finish();

private:
  std::size_t total_;
  std::size_t added_ = 0;
  std::uint64_t bytes_ = 0;
  std::filesystem::path directory_;
  UniqueFd pack_;
  MappedDisk disk_;
};

/// A whole plan at once.
[[nodiscard]] NIXBUILD_API MappedDisk map_disk(std::vector<DiskExtent> plan,
                                               const std::filesystem::path& directory);

/// A read-only descriptor of an unlinked file with these contents. QEMU insists on the access mode
/// that it asks for, so it must not be writable. Errors: `sandbox.disk`.
[[nodiscard]] NIXBUILD_API UniqueFd sealed_file(std::string_view contents);

} // namespace nixbuild::sandbox
