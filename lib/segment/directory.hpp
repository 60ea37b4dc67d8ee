#pragma once

#include "segment/erofs_format.hpp"
#include "segment/inode.hpp"

#include <nixbuild/base/bytes.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

/// Directories: blocks of fixed-size records and behind them the names, sorted by bytes over the
/// whole directory, `.` and `..` among the others. Source: Linux, fs/erofs/namei.c and dir.c.
namespace nixbuild::segment {

/// One block of a directory, checked: at least one record, names in place, each a possible name.
class DirectoryBlock {
public:
  /// `bytes` are those of the block that count; `address` is theirs, for messages.
  DirectoryBlock(ByteView bytes, std::uint64_t address);

  [[nodiscard]] std::size_t count() const noexcept { return count_; }

  [[nodiscard]] std::string_view name(std::size_t i) const noexcept;

  [[nodiscard]] std::uint64_t nid(std::size_t i) const noexcept {
    return load<std::uint64_t>(bytes_.data() + i * kDirentBytes);
  }

  [[nodiscard]] FileType type(std::size_t i) const noexcept {
    return static_cast<FileType>(bytes_[i * kDirentBytes + 10]);
  }

private:
  [[nodiscard]] std::size_t name_offset(std::size_t i) const noexcept {
    return load<std::uint16_t>(bytes_.data() + i * kDirentBytes + 8);
  }

  ByteView bytes_;
  std::size_t count_ = 0;
  std::size_t names_end_ = 0;
};

/// Blocks of a directory, the inline one included.
[[nodiscard]] std::uint64_t directory_blocks(const Inode& directory) noexcept;

/// Address and counting bytes of one of them.
struct BlockRange {
  std::uint64_t address = 0;
  std::size_t bytes = 0;
};

[[nodiscard]] BlockRange directory_block_range(const Inode& directory,
                                               std::uint64_t index) noexcept;
[[nodiscard]] DirectoryBlock
directory_block(const Blobs& blobs, const Inode& directory, std::uint64_t index);

struct DirectoryEntry {
  std::string_view name;
  std::uint64_t address = 0; ///< of the child's inode; before the directory's own
  FileType type = FileType::Regular;
};

/// The entries of one directory of a metadata blob in order, without `.` and `..`. Checks the
/// order, that children come before their parent (so that nothing can be a cycle), and both dot
/// entries.
class DirectoryCursor {
public:
  DirectoryCursor(const Blobs& blobs, const Inode& directory);

  /// The next entry, or nothing. Error `segment.corrupt`.
  [[nodiscard]] std::optional<DirectoryEntry> next(const Blobs& blobs);

  [[nodiscard]] const Inode& directory() const noexcept { return directory_; }

private:
  Inode directory_;
  DirectoryBlock block_;
  std::uint64_t block_index_ = 0;
  std::uint64_t block_count_ = 0;
  std::size_t record_ = 0;
  std::string_view last_;
  unsigned dots_ = 0;
};

/// The inode behind an entry. Error `segment.corrupt` when it is of another type than the entry
/// says.
[[nodiscard]] Inode decode_child(const Blobs& blobs, const DirectoryEntry& entry);

/// One record of a directory to be written.
struct Dirent {
  std::string_view name;
  std::uint64_t nid = 0;
  FileType type = FileType::Regular;
};

/// Lays out a directory: which records go into which block.
class DirectoryLayout {
public:
  /// `entries` are sorted and do not include the dot entries. Names stay with the caller.
  explicit DirectoryLayout(std::vector<Dirent> entries);

  /// Bytes of all blocks, the last one cut behind its last name.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  [[nodiscard]] std::uint32_t links() const noexcept { return links_; }

  [[nodiscard]] std::size_t blocks() const noexcept { return first_.size(); }

  [[nodiscard]] bool tail_is_inline() const noexcept;
  /// Bytes directly behind the inode.
  [[nodiscard]] std::size_t inline_bytes() const noexcept;
  /// Sets the numbers of the directory itself and of its parent.
  void set_nids(std::uint64_t self, std::uint64_t parent) noexcept;
  /// Fills one block; returns how many of its bytes count.
  std::size_t fill(std::size_t index, std::array<std::uint8_t, 4096>& block) const noexcept;

private:
  [[nodiscard]] std::size_t last_of(std::size_t index) const noexcept {
    return index + 1 < first_.size() ? first_[index + 1] : entries_.size();
  }

  std::vector<Dirent> entries_;
  std::vector<std::size_t> first_; ///< entry that begins each block
  std::uint64_t size_ = 0;
  std::uint32_t links_ = 2;
  std::size_t self_ = 0;
  std::size_t parent_ = 0;
};

/// Writes a laid-out directory through `append(ByteView)` and `pad_to(address)`: inode, inline
/// part, blocks. `address` is the inode's, relative to where block addresses count from.
template <class Out>
void write_directory(const DirectoryLayout& layout,
                     std::uint64_t address,
                     std::uint32_t number,
                     Out& out) {
  InodeFields fields;
  fields.mode = kModeDirectory;
  fields.links = layout.links();
  fields.size = layout.size();
  fields.layout = layout.tail_is_inline() ? DataLayout::Inline : DataLayout::Plain;
  fields.number = number;
  const std::size_t whole = layout.blocks() - (layout.tail_is_inline() ? 1 : 0);
  const std::uint64_t begin = address + inode_bytes(fields.size, fields.links);
  const std::uint64_t blocks = align_up(begin + layout.inline_bytes(), 4096);
  fields.block = whole == 0 ? 0 : static_cast<std::uint32_t>(blocks / 4096);
  out.pad_to(address);
  out.append(encode_inode(fields).view());
  std::array<std::uint8_t, 4096> block;
  if (layout.tail_is_inline()) {
    const std::size_t used = layout.fill(layout.blocks() - 1, block);
    out.append(ByteView(block).first(used));
  }
  if (whole > 0) {
    out.pad_to(blocks);
    for (std::size_t i = 0; i < whole; ++i) {
      layout.fill(i, block);
      out.append(block);
    }
  }
}

} // namespace nixbuild::segment
