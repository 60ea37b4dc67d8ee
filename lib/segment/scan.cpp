#include "segment/scan.hpp"

#include "segment/crc32c.hpp"
#include "segment/directory.hpp"

#include <algorithm>
#include <limits>

namespace nixbuild::segment {

namespace {

void check_sum(ByteView metadata) {
  const auto body = crc32c(~std::uint32_t{0}, metadata.subspan(BlobHeader::kBytes));
  if (crc32c(body, metadata.first(28)) != load<std::uint32_t>(metadata.data() + 28)) {
    corrupt("sum does not match, header", 28);
  }
}

/// True where no inode begins because the next thing had to begin at a border.
bool is_gap(ByteView metadata, std::uint64_t position) {
  const auto slot = metadata.subspan(static_cast<std::size_t>(position));
  return slot.size() >= kSlot && std::all_of(slot.begin(),
                                             slot.begin() + kSlot,
                                             [](std::uint8_t byte) { return byte == 0; });
}

/// Children lie before their directories; so one pass by address knows every child when it meets
/// the entry that leads to it.
class Scanner {
public:
  explicit Scanner(const Blobs& blobs)
      : blobs_(blobs), begins_(blobs.metadata.size() / kSlot + 1),
        reached_(blobs.metadata.size() / kSlot + 1) {}

  ScanResult run() {
    const auto header = read_header(blobs_);
    if (blobs_.metadata.size() / kSlot > std::numeric_limits<std::uint32_t>::max()) {
      corrupt("blob beyond 128 GiB, header", 16);
    }
    check_sum(blobs_.metadata);
    std::uint64_t references = 0;
    for_each_inode(blobs_, [&](const Inode& inode) {
      begins_[inode.address / kSlot] = true;
      ++result_.inodes;
      if (inode.type == NodeType::Directory) {
        references += directory(inode);
      } else if (inode.type == NodeType::Symlink) {
        (void)target_of(blobs_, inode);
      }
      result_.root = inode;
    });
    if (result_.inodes != header.inodes || result_.inodes == 0 ||
        result_.root.address != header.root) {
      corrupt("header does not tell what the blob holds", 8);
    }
    if (references != result_.inodes - 1) {
      corrupt("inode that no directory leads to, before", result_.root.address);
    }
    return std::move(result_);
  }

private:
  /// Returns how many entries it has.
  std::uint64_t directory(const Inode& inode) {
    ScannedDirectory self;
    self.slot = static_cast<std::uint32_t>(inode.address / kSlot);
    self.parent = self.slot;
    std::uint64_t entries = 0;
    std::uint32_t links = 2;
    DirectoryCursor cursor(blobs_, inode);
    while (const auto entry = cursor.next(blobs_)) {
      const std::uint64_t slot = entry->address / kSlot;
      if (!begins_[slot] || reached_[slot]) {
        corrupt("directory entry to no inode, or to one that has an entry", inode.address);
      }
      reached_[slot] = true;
      ++entries;
      if (decode_child(blobs_, *entry).type == NodeType::Directory) {
        ++links;
        auto& child = found(static_cast<std::uint32_t>(slot));
        child.parent = self.slot;
        self.depth = std::max(self.depth, child.depth + 1);
      }
    }
    if (links != inode.links) {
      corrupt("directory with a wrong number of links", inode.address);
    }
    if (self.depth > kMaxDepth) {
      corrupt("directory with too many levels below", inode.address);
    }
    result_.directories.push_back(self);
    return entries;
  }

  ScannedDirectory& found(std::uint32_t slot) {
    return *std::lower_bound(
        result_.directories.begin(),
        result_.directories.end(),
        slot,
        [](const ScannedDirectory& each, std::uint32_t wanted) { return each.slot < wanted; });
  }

  const Blobs& blobs_;
  std::vector<bool> begins_;
  std::vector<bool> reached_;
  ScanResult result_;
};

} // namespace

ScanResult scan(const Blobs& blobs) {
  return Scanner(blobs).run();
}

void for_each_inode(const Blobs& blobs, const std::function<void(const Inode& inode)>& visit) {
  std::uint64_t position = BlobHeader::kBytes;
  while (position < blobs.metadata.size()) {
    if (is_gap(blobs.metadata, position)) {
      position += kSlot;
      continue;
    }
    const Inode inode = decode_inode(blobs, position);
    visit(inode);
    position = align_up(inode.end, kSlot);
  }
}

void validate(ByteView metadata, std::uint64_t data_bytes) {
  (void)scan({metadata, data_bytes});
}

} // namespace nixbuild::segment
