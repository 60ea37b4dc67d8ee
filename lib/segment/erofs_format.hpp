#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// What is used of the EROFS on-disk format: plain, uncompressed, 4 KiB blocks. All numbers are
/// little endian. Source: Linux, fs/erofs/erofs_fs.h, as read by 5.4 and later.
namespace nixbuild::segment {

inline constexpr std::uint64_t kSlot = 32; ///< an inode's number is its address divided by this
inline constexpr std::size_t kCompactInode = 32;
inline constexpr std::size_t kExtendedInode = 64;
inline constexpr std::size_t kDirentBytes = 12;
inline constexpr std::size_t kMaxNameBytes = 255;
inline constexpr std::size_t kMaxTargetBytes = 4095;
inline constexpr std::uint32_t kModificationTime = 1;

inline constexpr std::uint64_t kSuperOffset = 1024;
inline constexpr std::size_t kSuperBytes = 128;
inline constexpr std::uint32_t kSuperMagic = 0xe0f5e1e2;
inline constexpr std::uint32_t kFeatureChecksum = 1;

enum class FileType : std::uint8_t { Regular = 1, Directory = 2, Symlink = 7 };

/// Bits 1 to 3 of an inode's format; bit 0 tells an extended inode.
enum class DataLayout : std::uint8_t { Plain = 0, Inline = 2 };

inline constexpr std::uint16_t kModeRegular = 0100444;
inline constexpr std::uint16_t kModeExecutable = 0100555;
inline constexpr std::uint16_t kModeDirectory = 0040555;
inline constexpr std::uint16_t kModeSymlink = 0120777;

template <class Number>
Number load(const std::uint8_t* bytes) noexcept {
  Number value = 0;
  for (std::size_t i = 0; i < sizeof(Number); ++i) {
    value =
        static_cast<Number>(value | static_cast<Number>(static_cast<Number>(bytes[i]) << (8 * i)));
  }
  return value;
}

template <class Number>
void store(std::uint8_t* bytes, Number value) noexcept {
  for (std::size_t i = 0; i < sizeof(Number); ++i) {
    bytes[i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t unit) noexcept {
  return (value + unit - 1) / unit * unit;
}

/// Where `size` bytes that must not cross a block's end go, when `position` bytes are written.
constexpr std::uint64_t placed(std::uint64_t position, std::uint64_t size) noexcept {
  const std::uint64_t slot = align_up(position, kSlot);
  return slot % 4096 + size > 4096 ? align_up(slot, 4096) : slot;
}

/// A metadata blob begins with these 32 bytes: magic (8), address of the root inode (8), bytes of
/// the whole blob (8), number of inodes (4), CRC-32C of everything behind the header and then of
/// the header's first 28 bytes (4). They are written last; until then they are zero.
struct BlobHeader {
  static constexpr std::size_t kBytes = 32;
  static constexpr std::array<std::uint8_t, 8> kMagic{'n', 'b', 's', 'e', 'g', 'm', '1', '\n'};

  std::uint64_t root = 0;
  std::uint64_t metadata_bytes = 0;
  std::uint32_t inodes = 0;
};

} // namespace nixbuild::segment
