#pragma once

#include <nixbuild/base/api.hpp>

#include <cstdint>
#include <filesystem>

/// How much of the host's disk the scratch disks of its machines may take. They are sparse: what
/// counts is what builders write.
namespace nixbuild::sandbox {

/// The scratch disk's file in a machine's run folder.
inline constexpr const char* kScratchName = "scratch";

/// Size of a new scratch disk: what is wanted, but at most half of what `free_bytes` leaves beyond
/// a GiB for everything else, and never less than 256 MiB. Whole MiB; 0 stays 0.
[[nodiscard]] NIXBUILD_API std::uint64_t scratch_size(std::uint64_t wanted_bytes,
                                                      std::uint64_t free_bytes) noexcept;

/// What the scratch disks below `run_directory` may soon take beyond what they have: for each up
/// to a GiB. Reads a few files' sizes.
[[nodiscard]] NIXBUILD_API std::uint64_t
scratch_to_come(const std::filesystem::path& run_directory);

} // namespace nixbuild::sandbox
