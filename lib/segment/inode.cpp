#include "segment/inode.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/writer.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::segment {

void corrupt(std::string_view what, std::uint64_t address) {
  throw Error(Reaction::Corrupt,
              "segment.corrupt",
              fmt::format("{} at byte {} of the segment's metadata", what, address));
}

BlobHeader read_header(const Blobs& blobs) {
  if (blobs.metadata.size() < BlobHeader::kBytes ||
      !std::equal(BlobHeader::kMagic.begin(), BlobHeader::kMagic.end(), blobs.metadata.begin())) {
    corrupt("no complete header", 0);
  }
  if (blobs.data_bytes % kBlock != 0) {
    corrupt("data blob is not made of whole blocks, header", 0);
  }
  const std::uint8_t* bytes = blobs.metadata.data();
  BlobHeader header;
  header.root = load<std::uint64_t>(bytes + 8);
  header.metadata_bytes = load<std::uint64_t>(bytes + 16);
  header.inodes = load<std::uint32_t>(bytes + 24);
  if (header.metadata_bytes != blobs.metadata.size()) {
    corrupt("header tells another length than the blob has", 16);
  }
  return header;
}

FileType Inode::file_type() const noexcept {
  switch (type) {
  case NodeType::Symlink:
    return FileType::Symlink;
  case NodeType::Directory:
    return FileType::Directory;
  case NodeType::Regular:
  case NodeType::Executable:
    break;
  }
  return FileType::Regular;
}

namespace {

struct RawInode {
  DataLayout layout = DataLayout::Plain;
  std::uint32_t block = 0;
};

bool all_zero(const std::uint8_t* bytes, std::size_t count) {
  return std::all_of(bytes, bytes + count, [](std::uint8_t byte) { return byte == 0; });
}

NodeType type_of_mode(std::uint16_t mode, std::uint64_t address) {
  switch (mode) {
  case kModeRegular:
    return NodeType::Regular;
  case kModeExecutable:
    return NodeType::Executable;
  case kModeSymlink:
    return NodeType::Symlink;
  case kModeDirectory:
    return NodeType::Directory;
  default:
    corrupt("unknown file mode", address);
  }
}

/// The fields of both forms; nothing is said yet about where they lead.
RawInode read_fields(ByteView metadata, Inode& inode) {
  if (inode.address < BlobHeader::kBytes || inode.address % kSlot != 0 ||
      inode.address > metadata.size() || metadata.size() - inode.address < kCompactInode) {
    corrupt("no place for an inode", inode.address);
  }
  const std::uint8_t* bytes = metadata.data() + inode.address;
  const auto format = load<std::uint16_t>(bytes);
  if (format != 0 && format != 1 && format != 4 && format != 5) {
    corrupt("unknown inode format", inode.address);
  }
  const bool extended = (format & 1U) != 0;
  inode.header_bytes = extended ? kExtendedInode : kCompactInode;
  if (inode.address % kBlock + inode.header_bytes > kBlock ||
      metadata.size() - inode.address < inode.header_bytes) {
    corrupt("inode crosses a border", inode.address);
  }
  inode.type = type_of_mode(load<std::uint16_t>(bytes + 4), inode.address);
  bool rest = load<std::uint16_t>(bytes + 2) == 0; // extended attributes, owner, times, reserved
  if (extended) {
    inode.size = load<std::uint64_t>(bytes + 8);
    inode.links = load<std::uint32_t>(bytes + 44);
    rest = rest && all_zero(bytes + 6, 2) && all_zero(bytes + 24, 8) &&
           load<std::uint64_t>(bytes + 32) == kModificationTime && all_zero(bytes + 40, 4) &&
           all_zero(bytes + 48, 16);
  } else {
    inode.size = load<std::uint32_t>(bytes + 8);
    inode.links = load<std::uint16_t>(bytes + 6);
    rest = rest && all_zero(bytes + 12, 4) && all_zero(bytes + 24, 8);
  }
  if (!rest) {
    corrupt("inode with a field that a segment does not have", inode.address);
  }
  RawInode raw;
  raw.layout = (format & 4U) != 0 ? DataLayout::Inline : DataLayout::Plain;
  raw.block = load<std::uint32_t>(bytes + kInodeBlockOffset);
  return raw;
}

void locate_contents(const Blobs& blobs, const RawInode& raw, Inode& inode) {
  if (inode.links != 1) {
    corrupt("regular file with a wrong number of links", inode.address);
  }
  if (raw.layout == DataLayout::Inline || inode.size == 0) {
    if (inode.size != inode.inline_bytes || raw.block != 0 ||
        (raw.layout == DataLayout::Inline && inode.size == 0)) {
      corrupt("regular file that is not wholly inline", inode.address);
    }
    return;
  }
  inode.data_offset = raw.block * kBlock;
  if (inode.data_offset > blobs.data_bytes || inode.size > blobs.data_bytes - inode.data_offset) {
    corrupt("contents beyond the data blob", inode.address);
  }
}

/// Directories and symlinks: what is not inline lies in the blocks behind the inode.
void locate_blocks(const Blobs& blobs, const RawInode& raw, Inode& inode) {
  const std::uint64_t bytes = inode.size - inode.inline_bytes;
  if (bytes == 0) {
    if (raw.block != 0) {
      corrupt("wholly inline inode with blocks", inode.address);
    }
    return;
  }
  inode.blocks_begin = align_up(inode.inline_begin() + inode.inline_bytes, kBlock);
  if (raw.block != inode.blocks_begin / kBlock) {
    corrupt("blocks are not behind their inode", inode.address);
  }
  if (inode.blocks_begin > blobs.metadata.size() ||
      bytes > blobs.metadata.size() - inode.blocks_begin) {
    corrupt("blocks beyond the blob", inode.address);
  }
  inode.blocks_end = inode.blocks_begin + align_up(bytes, kBlock);
  if (inode.blocks_end > blobs.metadata.size()) {
    corrupt("blocks beyond the blob", inode.address);
  }
  inode.end = inode.blocks_end;
}

} // namespace

Inode decode_inode(const Blobs& blobs, std::uint64_t address) {
  Inode inode;
  inode.address = address;
  const RawInode raw = read_fields(blobs.metadata, inode);
  if (raw.layout == DataLayout::Inline) {
    inode.inline_bytes = inode.size % kBlock;
    const std::uint64_t bytes = inode.header_bytes + inode.inline_bytes;
    if (inode.inline_bytes == 0 || address % kBlock + bytes > kBlock ||
        bytes > blobs.metadata.size() - address) {
      corrupt("inline part crosses a border", address);
    }
  }
  inode.end = inode.inline_begin() + inode.inline_bytes;
  switch (inode.type) {
  case NodeType::Regular:
  case NodeType::Executable:
    locate_contents(blobs, raw, inode);
    break;
  case NodeType::Symlink:
    if (inode.links != 1 || inode.size == 0 || inode.size > kMaxTargetBytes) {
      corrupt("symlink of impossible length or links", address);
    }
    locate_blocks(blobs, raw, inode);
    break;
  case NodeType::Directory:
    if (inode.size == 0 || inode.size > blobs.metadata.size()) {
      corrupt("directory of impossible length", address);
    }
    locate_blocks(blobs, raw, inode);
    break;
  }
  return inode;
}

std::string_view target_of(const Blobs& blobs, const Inode& inode) {
  const std::uint64_t begin = inode.inline_bytes != 0 ? inode.inline_begin() : inode.blocks_begin;
  const auto target = text_of(blobs.metadata.subspan(static_cast<std::size_t>(begin),
                                                     static_cast<std::size_t>(inode.size)));
  if (target.find('\0') != std::string_view::npos) {
    corrupt("symlink target with a NUL", begin);
  }
  return target;
}

std::size_t inode_bytes(std::uint64_t size, std::uint32_t links) noexcept {
  return size > UINT32_MAX || links > UINT16_MAX ? kExtendedInode : kCompactInode;
}

EncodedInode encode_inode(const InodeFields& fields) noexcept {
  EncodedInode inode;
  inode.size = inode_bytes(fields.size, fields.links);
  std::uint8_t* out = inode.bytes.data();
  const bool extended = inode.size == kExtendedInode;
  store(out,
        static_cast<std::uint16_t>(static_cast<unsigned>(fields.layout) << 1U |
                                   (extended ? 1U : 0U)));
  store(out + 4, fields.mode);
  store(out + kInodeBlockOffset, fields.block);
  store(out + kInodeNumberOffset, fields.number);
  if (extended) {
    store(out + 8, fields.size);
    store(out + 32, std::uint64_t{kModificationTime});
    store(out + 44, fields.links);
  } else {
    store(out + 6, static_cast<std::uint16_t>(fields.links));
    store(out + 8, static_cast<std::uint32_t>(fields.size));
  }
  return inode;
}

} // namespace nixbuild::segment
