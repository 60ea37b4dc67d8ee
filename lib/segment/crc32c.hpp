#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstdint>

namespace nixbuild::segment {

/// Continues a CRC-32C (Castagnoli) without the customary inversions: begin with ~0. That is also
/// how EROFS computes its superblock's checksum.
[[nodiscard]] std::uint32_t crc32c(std::uint32_t crc, ByteView bytes) noexcept;

/// The same without special instructions.
[[nodiscard]] std::uint32_t crc32c_by_table(std::uint32_t crc, ByteView bytes) noexcept;

} // namespace nixbuild::segment
