#include "segment/directory.hpp"

#include <nixbuild/nar/name.hpp>
#include <nixbuild/segment/writer.hpp>

#include <algorithm>
#include <cstring>

namespace nixbuild::segment {

namespace {

bool is_dots(std::string_view name) noexcept {
  return name == "." || name == "..";
}

bool is_file_type(std::uint8_t type) noexcept {
  return type == static_cast<std::uint8_t>(FileType::Regular) ||
         type == static_cast<std::uint8_t>(FileType::Directory) ||
         type == static_cast<std::uint8_t>(FileType::Symlink);
}

} // namespace

DirectoryBlock::DirectoryBlock(ByteView bytes, std::uint64_t address) : bytes_(bytes) {
  if (bytes.size() < kDirentBytes) {
    corrupt("directory block without an entry", address);
  }
  const std::size_t records = name_offset(0);
  count_ = records / kDirentBytes;
  if (count_ == 0 || records % kDirentBytes != 0 || records >= bytes.size()) {
    corrupt("directory block with an impossible number of entries", address);
  }
  // The last name ends at the first NUL or with the block; behind it are only zeros.
  const std::size_t last = name_offset(count_ - 1);
  if (last < records || last >= bytes.size()) {
    corrupt("directory entry whose name is not in its block", address);
  }
  const auto names_end =
      std::find(bytes.begin() + static_cast<std::ptrdiff_t>(last), bytes.end(), std::uint8_t{0});
  if (std::any_of(names_end, bytes.end(), [](std::uint8_t byte) { return byte != 0; })) {
    corrupt("directory block with bytes behind its names", address);
  }
  names_end_ = static_cast<std::size_t>(names_end - bytes.begin());
  for (std::size_t i = 0; i < count_; ++i) {
    const std::size_t begin = name_offset(i);
    const std::size_t end = i + 1 < count_ ? name_offset(i + 1) : names_end_;
    if (end <= begin || end > names_end_ || end - begin > kMaxNameBytes) {
      corrupt("directory entry with a name of impossible length", address + i * kDirentBytes);
    }
    if (!is_file_type(bytes[i * kDirentBytes + 10]) || bytes[i * kDirentBytes + 11] != 0) {
      corrupt("directory entry of unknown type", address + i * kDirentBytes);
    }
    if (!nar::valid_name(name(i)) && !is_dots(name(i))) {
      corrupt("directory entry with an impossible name", address + i * kDirentBytes);
    }
  }
}

std::string_view DirectoryBlock::name(std::size_t i) const noexcept {
  const std::size_t begin = name_offset(i);
  const std::size_t end = i + 1 < count_ ? name_offset(i + 1) : names_end_;
  return text_of(bytes_.subspan(begin, end - begin));
}

std::uint64_t directory_blocks(const Inode& directory) noexcept {
  return (directory.size + kBlock - 1) / kBlock;
}

BlockRange directory_block_range(const Inode& directory, std::uint64_t index) noexcept {
  const std::uint64_t begin = index * kBlock;
  if (directory.inline_bytes != 0 && begin == directory.size - directory.inline_bytes) {
    return {directory.inline_begin(), static_cast<std::size_t>(directory.inline_bytes)};
  }
  return {directory.blocks_begin + begin,
          static_cast<std::size_t>(std::min(kBlock, directory.size - begin))};
}

DirectoryBlock directory_block(const Blobs& blobs, const Inode& directory, std::uint64_t index) {
  const BlockRange range = directory_block_range(directory, index);
  return {blobs.metadata.subspan(static_cast<std::size_t>(range.address), range.bytes),
          range.address};
}

DirectoryCursor::DirectoryCursor(const Blobs& blobs, const Inode& directory)
    : directory_(directory), block_(directory_block(blobs, directory, 0)),
      block_count_(directory_blocks(directory)) {}

std::optional<DirectoryEntry> DirectoryCursor::next(const Blobs& blobs) {
  for (;;) {
    if (record_ == block_.count()) {
      if (block_index_ + 1 == block_count_) {
        if (dots_ != 2) {
          corrupt("directory without its dot entries", directory_.address);
        }
        return std::nullopt;
      }
      block_ = directory_block(blobs, directory_, ++block_index_);
      record_ = 0;
    }
    const std::size_t i = record_++;
    DirectoryEntry entry{block_.name(i), 0, block_.type(i)};
    if (entry.name <= last_) {
      corrupt("directory that is not sorted", directory_.address);
    }
    last_ = entry.name;
    const std::uint64_t nid = block_.nid(i);
    if (is_dots(entry.name)) {
      // The parent is entered when the directory is placed on a disk.
      const std::uint64_t expected = entry.name == "." ? directory_.address / kSlot : 0;
      if (nid != expected || entry.type != FileType::Directory) {
        corrupt("directory with a wrong dot entry", directory_.address);
      }
      ++dots_;
      continue;
    }
    if (nid >= directory_.address / kSlot) {
      corrupt("directory entry that leads forward", directory_.address);
    }
    entry.address = nid * kSlot;
    return entry;
  }
}

Inode decode_child(const Blobs& blobs, const DirectoryEntry& entry) {
  const Inode inode = decode_inode(blobs, entry.address);
  if (inode.file_type() != entry.type) {
    corrupt("directory entry of another type than its inode", entry.address);
  }
  return inode;
}

DirectoryLayout::DirectoryLayout(std::vector<Dirent> entries) : entries_(std::move(entries)) {
  const auto by_name = [](const Dirent& left, const Dirent& right) {
    return left.name < right.name;
  };
  for (const auto& entry : entries_) {
    links_ += entry.type == FileType::Directory ? 1 : 0;
  }
  // Names such as `+x` come before the dot entries.
  for (auto* index : {&self_, &parent_}) {
    const Dirent dots{index == &self_ ? "." : "..", 0, FileType::Directory};
    const auto at = std::lower_bound(entries_.begin(), entries_.end(), dots, by_name);
    *index = static_cast<std::size_t>(at - entries_.begin());
    entries_.insert(at, dots);
  }
  std::size_t used = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const std::size_t bytes = kDirentBytes + entries_[i].name.size();
    if (first_.empty() || used + bytes > kBlock) {
      first_.push_back(i);
      used = 0;
    }
    used += bytes;
  }
  size_ = (first_.size() - 1) * kBlock + used;
}

bool DirectoryLayout::tail_is_inline() const noexcept {
  const std::uint64_t tail = size_ % kBlock;
  return tail != 0 && inode_bytes(size_, links_) + tail <= kBlock;
}

std::size_t DirectoryLayout::inline_bytes() const noexcept {
  return tail_is_inline() ? static_cast<std::size_t>(size_ % kBlock) : 0;
}

void DirectoryLayout::set_nids(std::uint64_t self, std::uint64_t parent) noexcept {
  entries_[self_].nid = self;
  entries_[parent_].nid = parent;
}

std::size_t DirectoryLayout::fill(std::size_t index,
                                  std::array<std::uint8_t, 4096>& block) const noexcept {
  const std::size_t begin = first_[index];
  const std::size_t end = last_of(index);
  std::size_t name_at = (end - begin) * kDirentBytes;
  std::uint8_t* record = block.data();
  for (std::size_t i = begin; i < end; ++i, record += kDirentBytes) {
    const auto& entry = entries_[i];
    store(record, entry.nid);
    store(record + 8, static_cast<std::uint16_t>(name_at));
    record[10] = static_cast<std::uint8_t>(entry.type);
    record[11] = 0;
    std::memcpy(block.data() + name_at, entry.name.data(), entry.name.size());
    name_at += entry.name.size();
  }
  std::memset(block.data() + name_at, 0, block.size() - name_at);
  return name_at;
}

} // namespace nixbuild::segment
