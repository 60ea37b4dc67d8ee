#include "nar/gather.hpp"
#include "segment/crc32c.hpp"
#include "segment/directory.hpp"
#include "segment/scan.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/writer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

namespace nixbuild::segment {

namespace {

/// A directory above the parts: `/`, `/nix`, `/nix/store`.
struct HeadDirectory {
  DirectoryLayout layout;
  std::uint64_t address = 0;
  std::uint64_t end = 0;
};

/// Where one part's metadata goes.
struct PlacedPart {
  BlobHeader header;
  FileType type = FileType::Regular;
  std::uint64_t base = 0;       ///< of its metadata on the disk
  std::uint64_t data_block = 0; ///< first block of its data on the disk

  [[nodiscard]] std::uint64_t root_nid() const noexcept { return (base + header.root) / kSlot; }
};

[[noreturn]] void bad_name(std::string_view what, std::string_view name) {
  throw Error(Reaction::Reject, "segment.name", fmt::format("{} '{}' of a disk", what, name));
}

std::vector<std::string_view> components_of(std::string_view store_dir) {
  std::vector<std::string_view> components;
  if (store_dir.empty() || store_dir[0] != '/') {
    bad_name("store directory that is not absolute,", store_dir);
  }
  for (std::size_t at = 1; at < store_dir.size();) {
    const auto slash = std::min(store_dir.find('/', at), store_dir.size());
    const auto name = store_dir.substr(at, slash - at);
    if (!nar::valid_name(name) || name.size() > kMaxNameBytes || components.size() == 16) {
      bad_name("impossible store directory", store_dir);
    }
    components.push_back(name);
    at = slash + 1;
  }
  return components;
}

/// The disk's bytes in order; only the first block is held back, for its checksum.
class HeadStream {
public:
  explicit HeadStream(ByteSink& sink) : out_(sink) {}

  void append(ByteView bytes) {
    if (first_.size() < kBlock) {
      const auto room = std::min<std::size_t>(bytes.size(), kBlock - first_.size());
      first_.insert(first_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(room));
      bytes = bytes.subspan(room);
      if (first_.size() == kBlock) {
        write_first();
      }
    }
    out_.add(bytes);
  }

  void pad_to(std::uint64_t position) {
    static constexpr std::array<std::uint8_t, kBlock> kZeros{};
    while (this->position() < position) {
      const auto count = std::min<std::uint64_t>(position - this->position(), kBlock);
      append(ByteView(kZeros).first(static_cast<std::size_t>(count)));
    }
  }

  void flush() { out_.flush(); }

  [[nodiscard]] std::uint64_t position() const noexcept {
    return first_.size() < kBlock ? first_.size() : out_.total();
  }

private:
  void write_first() {
    store(first_.data() + kSuperOffset + 4,
          crc32c(~std::uint32_t{0}, ByteView(first_).subspan(kSuperOffset)));
    out_.add(first_);
  }

  nar::Gather<ByteSink> out_;
  Bytes first_;
};

class Composer {
public:
  Composer(std::string_view store_dir, std::span<const Part> parts)
      : components_(components_of(store_dir)), parts_(parts), placed_(parts.size()),
        order_(parts.size()) {}

  ComposedDisk run(ByteSink& head) {
    sort_names();
    place_directories();
    place_metadata();
    place_data();
    HeadStream out(head);
    write_super(out);
    write_directories(out);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      write_part(i, out);
    }
    out.pad_to(disk_.head_bytes);
    out.flush();
    return std::move(disk_);
  }

private:
  void sort_names();
  void place_directories();
  void place_metadata();
  void place_data();
  void write_super(HeadStream& out) const;
  void write_directories(HeadStream& out);
  void write_part(std::size_t index, HeadStream& out);
  void write_inode(const Inode& inode, const PlacedPart& part, const Blobs& blobs, HeadStream& out);
  void write_entries(const Blobs& blobs,
                     const BlockRange& range,
                     const PlacedPart& part,
                     std::uint64_t parent_nid,
                     HeadStream& out);
  [[nodiscard]] std::uint64_t total_inodes() const;

  [[nodiscard]] std::uint64_t store_nid() const { return directories_.back().address / kSlot; }

  std::vector<std::string_view> components_;
  std::span<const Part> parts_;
  std::vector<PlacedPart> placed_;
  std::vector<std::size_t> order_; ///< parts by name
  std::vector<HeadDirectory> directories_;
  ComposedDisk disk_;
  std::uint32_t number_ = 0;
  // Of the part that is being written:
  std::vector<ScannedDirectory> scanned_;
  std::size_t next_scanned_ = 0;
  Bytes scratch_;
};

void Composer::sort_names() {
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::sort(order_.begin(), order_.end(), [&](std::size_t left, std::size_t right) {
    return parts_[left].name < parts_[right].name;
  });
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const auto& name = parts_[order_[i]].name;
    if (!nar::valid_name(name) || name.size() > kMaxNameBytes) {
      bad_name("impossible name of a part", name);
    }
    if (i > 0 && name == parts_[order_[i - 1]].name) {
      bad_name("two parts have the name", name);
    }
  }
}

/// The directories above the parts come first, the root right behind the superblock, because its
/// number has only 16 bits.
void Composer::place_directories() {
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Blobs blobs{parts_[i].metadata, parts_[i].data_bytes};
    placed_[i].header = read_header(blobs);
    placed_[i].type = decode_inode(blobs, placed_[i].header.root).file_type();
  }
  std::uint64_t position = kSuperOffset + kSuperBytes;
  for (std::size_t level = 0; level <= components_.size(); ++level) {
    std::vector<Dirent> entries;
    if (level < components_.size()) {
      entries.push_back({components_[level], 0, FileType::Directory});
    } else {
      for (const auto part : order_) {
        entries.push_back({parts_[part].name, 0, placed_[part].type});
      }
    }
    DirectoryLayout layout(std::move(entries));
    const auto bytes = inode_bytes(layout.size(), layout.links()) + layout.inline_bytes();
    const auto address = placed(position, bytes);
    const auto blocks = layout.blocks() - (layout.tail_is_inline() ? 1 : 0);
    position = address + bytes;
    if (blocks > 0) {
      position = align_up(position, kBlock) + blocks * kBlock;
    }
    directories_.push_back({std::move(layout), address, position});
  }
}

void Composer::place_metadata() {
  std::uint64_t position = directories_.back().end;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    // What fits into the rest of a block as a whole has no borders inside.
    placed_[i].base = placed(position, std::min<std::uint64_t>(parts_[i].metadata.size(), kBlock));
    if (parts_[i].metadata.size() > kBlock) {
      placed_[i].base = align_up(position, kBlock);
    }
    position = placed_[i].base + parts_[i].metadata.size();
  }
  disk_.head_bytes = align_up(position, kBlock);
}

void Composer::place_data() {
  std::vector<std::size_t> by_size;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].data_bytes != 0) {
      by_size.push_back(i);
    }
  }
  std::stable_sort(by_size.begin(), by_size.end(), [&](std::size_t left, std::size_t right) {
    return parts_[left].data_bytes > parts_[right].data_bytes;
  });
  constexpr std::uint64_t kMaxDisk =
      std::uint64_t{std::numeric_limits<std::uint32_t>::max()} * kBlock;
  std::uint64_t position = disk_.head_bytes;
  const auto check = [&](std::uint64_t more) {
    if (position > kMaxDisk || more > kMaxDisk - position) {
      throw Error(Reaction::Reject,
                  "segment.limit",
                  fmt::format("disk of {} parts is larger than 2^32 blocks", parts_.size()));
    }
  };
  check(0);
  for (const auto part : by_size) {
    check(parts_[part].data_bytes);
    placed_[part].data_block = position / kBlock;
    disk_.data.push_back({part, position, parts_[part].data_bytes});
    position += parts_[part].data_bytes;
  }
  disk_.disk_bytes = position;
}

std::uint64_t Composer::total_inodes() const {
  return std::accumulate(
      placed_.begin(),
      placed_.end(),
      std::uint64_t{directories_.size()},
      [](std::uint64_t sum, const PlacedPart& part) { return sum + part.header.inodes; });
}

void Composer::write_super(HeadStream& out) const {
  std::array<std::uint8_t, kSuperBytes> super{};
  std::uint8_t* bytes = super.data();
  store(bytes, kSuperMagic);
  store(bytes + 8, kFeatureChecksum);
  bytes[12] = 12; // 2^12 bytes a block
  store(bytes + 14, static_cast<std::uint16_t>(directories_.front().address / kSlot));
  store(bytes + 16, total_inodes());
  store(bytes + 24, std::uint64_t{kModificationTime});
  store(bytes + 36, static_cast<std::uint32_t>(disk_.disk_bytes / kBlock));
  out.pad_to(kSuperOffset);
  out.append(super);
}

void Composer::write_directories(HeadStream& out) {
  for (std::size_t level = 0; level < directories_.size(); ++level) {
    auto& directory = directories_[level];
    const auto parent = directories_[level == 0 ? 0 : level - 1].address / kSlot;
    std::vector<Dirent> entries;
    if (level + 1 < directories_.size()) {
      entries.push_back(
          {components_[level], directories_[level + 1].address / kSlot, FileType::Directory});
    } else {
      for (const auto part : order_) {
        entries.push_back({parts_[part].name, placed_[part].root_nid(), placed_[part].type});
      }
    }
    directory.layout = DirectoryLayout(std::move(entries));
    directory.layout.set_nids(directory.address / kSlot, parent);
    write_directory(directory.layout, directory.address, ++number_, out);
  }
}

void Composer::write_part(std::size_t index, HeadStream& out) {
  const Blobs blobs{parts_[index].metadata, parts_[index].data_bytes};
  try {
    scanned_ = scan(blobs).directories;
  } catch (Error& error) {
    error.add_context(parts_[index].name);
    throw;
  }
  next_scanned_ = 0;
  for_each_inode(blobs,
                 [&](const Inode& inode) { write_inode(inode, placed_[index], blobs, out); });
}

void Composer::write_inode(const Inode& inode,
                           const PlacedPart& part,
                           const Blobs& blobs,
                           HeadStream& out) {
  const auto raw = [&](std::uint64_t begin, std::uint64_t bytes) {
    return blobs.metadata.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes));
  };
  std::array<std::uint8_t, kExtendedInode> header{};
  const ByteView old = raw(inode.address, inode.header_bytes);
  std::copy(old.begin(), old.end(), header.begin());
  const bool has_blocks = inode.blocks_begin != inode.blocks_end;
  const bool has_data = inode.file_type() == FileType::Regular && inode.size != inode.inline_bytes;
  if (has_blocks || has_data) {
    const std::uint64_t shift = has_data ? part.data_block : part.base / kBlock;
    const auto block = load<std::uint32_t>(old.data() + kInodeBlockOffset);
    store(header.data() + kInodeBlockOffset, static_cast<std::uint32_t>(block + shift));
  }
  store(header.data() + kInodeNumberOffset, ++number_);
  out.pad_to(part.base + inode.address);
  out.append(ByteView(header).first(inode.header_bytes));
  if (inode.type != NodeType::Directory) {
    out.append(raw(inode.inline_begin(), inode.inline_bytes));
    if (has_blocks) {
      out.pad_to(part.base + inode.blocks_begin);
      out.append(raw(inode.blocks_begin, inode.blocks_end - inode.blocks_begin));
    }
    return;
  }
  const auto& scanned = scanned_[next_scanned_++];
  const bool is_root = scanned.parent == scanned.slot;
  const std::uint64_t parent = is_root ? store_nid() : scanned.parent + part.base / kSlot;
  const std::uint64_t blocks = directory_blocks(inode);
  // The inline block is the last one of the directory and the first one behind the inode.
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const bool inline_first = inode.inline_bytes != 0;
    const std::uint64_t index = inline_first ? (i == 0 ? blocks - 1 : i - 1) : i;
    const auto range = directory_block_range(inode, index);
    out.pad_to(part.base + range.address);
    write_entries(blobs, range, part, parent, out);
  }
  out.pad_to(part.base + inode.end);
}

void Composer::write_entries(const Blobs& blobs,
                             const BlockRange& range,
                             const PlacedPart& part,
                             std::uint64_t parent_nid,
                             HeadStream& out) {
  const auto old = blobs.metadata.subspan(static_cast<std::size_t>(range.address), range.bytes);
  const DirectoryBlock block(old, range.address);
  scratch_.assign(old.begin(), old.end());
  for (std::size_t i = 0; i < block.count(); ++i) {
    const bool is_parent = block.name(i) == "..";
    store(scratch_.data() + i * kDirentBytes,
          is_parent ? parent_nid : block.nid(i) + part.base / kSlot);
  }
  out.append(scratch_);
}

} // namespace

ComposedDisk compose(std::string_view store_dir, std::span<const Part> parts, ByteSink& head) {
  return Composer(store_dir, parts).run(head);
}

} // namespace nixbuild::segment
