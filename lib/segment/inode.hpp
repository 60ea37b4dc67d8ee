#pragma once

#include "segment/erofs_format.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/segment/reader.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nixbuild::segment {

/// Throws Error `segment.corrupt`: `what` at `address` of the metadata blob.
[[noreturn]] void corrupt(std::string_view what, std::uint64_t address);

/// A segment's two blobs as a reader has them.
struct Blobs {
  ByteView metadata;
  std::uint64_t data_bytes = 0;
};

/// Checks everything of the header but the CRC. Error `segment.corrupt`.
[[nodiscard]] BlobHeader read_header(const Blobs& blobs);

/// An inode that has been checked: every address it leads to lies in its blob.
struct Inode {
  NodeType type = NodeType::Regular;
  std::uint64_t address = 0;    ///< in the metadata blob
  std::size_t header_bytes = 0; ///< 32 or 64
  std::uint64_t size = 0;       ///< of contents, target or directory
  std::uint32_t links = 0;
  std::uint64_t inline_bytes = 0; ///< directly behind the header; the last ones of `size`
  std::uint64_t data_offset = 0;  ///< of a regular file's contents in the data blob
  std::uint64_t blocks_begin = 0; ///< of a directory's or symlink's blocks in the metadata blob
  std::uint64_t blocks_end = 0;   ///< equal to blocks_begin: has none
  std::uint64_t end = 0;          ///< first address behind all of this in the metadata blob

  [[nodiscard]] std::uint64_t inline_begin() const noexcept { return address + header_bytes; }

  [[nodiscard]] FileType file_type() const noexcept;
};

/// Error `segment.corrupt`.
[[nodiscard]] Inode decode_inode(const Blobs& blobs, std::uint64_t address);

/// The target of a symlink. Error `segment.corrupt` (NUL in it).
[[nodiscard]] std::string_view target_of(const Blobs& blobs, const Inode& inode);

/// What a new inode says.
struct InodeFields {
  std::uint16_t mode = 0;
  std::uint32_t links = 1;
  std::uint64_t size = 0;
  DataLayout layout = DataLayout::Plain;
  std::uint32_t block = 0;  ///< first block of the contents
  std::uint32_t number = 0; ///< only for systems that show 32-bit numbers
};

/// Offsets that the short and the long form share.
inline constexpr std::size_t kInodeBlockOffset = 16;
inline constexpr std::size_t kInodeNumberOffset = 20;

struct EncodedInode {
  std::array<std::uint8_t, kExtendedInode> bytes{};
  std::size_t size = kCompactInode;

  [[nodiscard]] ByteView view() const noexcept { return ByteView(bytes).first(size); }
};

/// 32, or 64 where the short form has no room.
[[nodiscard]] std::size_t inode_bytes(std::uint64_t size, std::uint32_t links) noexcept;
[[nodiscard]] EncodedInode encode_inode(const InodeFields& fields) noexcept;

} // namespace nixbuild::segment
