#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

/// A finished log: zstd frames of 256 KiB of text each, and a seek table in a skippable frame at
/// the end (the "zstd seekable format"): entries of compressed and plain size, the number of
/// entries, a zero byte, and the magic number, all little-endian 32-bit numbers. Any zstd program
/// reads it.
namespace nixbuild::store {

inline constexpr std::size_t kLogFrame = 256 * kKiB;

/// Compresses everything in `plain` (from its start) into the empty file `archive`.
void write_log_archive(int plain, int archive);

/// Up to `limit` bytes from `offset` of the text, at most to the end of one frame; empty at the
/// end. Error `log.corrupt`.
[[nodiscard]] std::string read_log_archive(int archive, std::uint64_t offset, std::size_t limit);

} // namespace nixbuild::store
