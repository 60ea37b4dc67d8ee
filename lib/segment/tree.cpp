#include "segment/directory.hpp"
#include "segment/inode.hpp"

#include <nixbuild/segment/reader.hpp>

namespace nixbuild::segment {

namespace {

Node node_of(const Blobs& blobs, const Inode& inode) {
  Node node;
  node.type = inode.type;
  node.address = inode.address;
  if (inode.type == NodeType::Symlink) {
    node.target = target_of(blobs, inode);
  } else if (inode.type != NodeType::Directory) {
    node.size = inode.size;
    node.inlined = inode.inline_bytes != 0;
    node.offset = node.inlined ? inode.inline_begin() : inode.data_offset;
  }
  return node;
}

/// The entry of that name. Binary search over the blocks by their first names, then in the block.
std::optional<DirectoryEntry>
find_entry(const Blobs& blobs, const Inode& directory, std::string_view name) {
  std::uint64_t low = 0;
  std::uint64_t high = directory_blocks(directory);
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (directory_block(blobs, directory, middle).name(0) <= name) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const auto block = directory_block(blobs, directory, low);
  for (std::size_t begin = 0, end = block.count(); begin < end;) {
    const std::size_t middle = begin + (end - begin) / 2;
    if (block.name(middle) < name) {
      begin = middle + 1;
    } else if (block.name(middle) > name) {
      end = middle;
    } else {
      if (block.nid(middle) >= directory.address / kSlot) {
        corrupt("directory entry that leads forward", directory.address);
      }
      return DirectoryEntry{name, block.nid(middle) * kSlot, block.type(middle)};
    }
  }
  return std::nullopt;
}

} // namespace

Tree::Tree(ByteView metadata, std::uint64_t data_bytes)
    : metadata_(metadata), data_bytes_(data_bytes) {
  (void)root();
}

Node Tree::root() const {
  const Blobs blobs{metadata_, data_bytes_};
  return node_of(blobs, decode_inode(blobs, read_header(blobs).root));
}

std::optional<Node> Tree::find(std::string_view path) const {
  const Blobs blobs{metadata_, data_bytes_};
  Inode inode = decode_inode(blobs, read_header(blobs).root);
  while (!path.empty()) {
    const auto slash = path.find('/');
    const auto name = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (name.empty() || name == "." || name == ".." || inode.type != NodeType::Directory ||
        (path.empty() && slash != std::string_view::npos)) {
      return std::nullopt;
    }
    const auto entry = find_entry(blobs, inode, name);
    if (!entry) {
      return std::nullopt;
    }
    inode = decode_child(blobs, *entry);
  }
  return node_of(blobs, inode);
}

void Tree::children(const Node& directory,
                    const std::function<bool(std::string_view, const Node&)>& visit) const {
  const Blobs blobs{metadata_, data_bytes_};
  const Inode inode = decode_inode(blobs, directory.address);
  if (inode.type != NodeType::Directory) {
    corrupt("children asked of what is no directory", directory.address);
  }
  DirectoryCursor cursor(blobs, inode);
  while (const auto entry = cursor.next(blobs)) {
    if (!visit(entry->name, node_of(blobs, decode_child(blobs, *entry)))) {
      return;
    }
  }
}

} // namespace nixbuild::segment
