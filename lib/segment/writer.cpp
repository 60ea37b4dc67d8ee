#include "nar/gather.hpp"
#include "segment/crc32c.hpp"
#include "segment/directory.hpp"
#include "segment/inode.hpp"
#include "segment/scan.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/segment/writer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nixbuild::segment {

namespace {

/// Files up to this size lie in the metadata. Composition copies metadata, and what is inline does
/// not go by sendfile: so not much; but each file outside costs a block.
constexpr std::uint64_t kInlineFile = 1024;

enum class Expect : std::uint8_t { Node, Contents, Entry, Nothing };

[[noreturn]] void out_of_place(std::string_view call) {
  throw Error(Reaction::Reject,
              "segment.syntax",
              fmt::format("'{}' out of place in the tree of a segment", call));
}

[[noreturn]] void beyond(std::string_view what) {
  throw Error(Reaction::Reject, "segment.limit", fmt::format("segment has more than {}", what));
}

/// Appends to the metadata blob, in order, and keeps the sum.
class MetadataStream {
public:
  explicit MetadataStream(PatchableSink& sink) : appender_{&sink}, out_(appender_) {}

  void append(ByteView bytes) {
    crc_ = crc32c(crc_, bytes);
    out_.add(bytes);
  }

  void pad_to(std::uint64_t position) {
    static constexpr std::array<std::uint8_t, kBlock> kZeros{};
    while (out_.total() < position) {
      const auto count = std::min<std::uint64_t>(position - out_.total(), kZeros.size());
      append(ByteView(kZeros).first(static_cast<std::size_t>(count)));
    }
  }

  /// The header's place; not part of the sum yet.
  void begin() { out_.zeros(BlobHeader::kBytes); }

  void finish(const BlobHeader& header) {
    out_.flush();
    std::array<std::uint8_t, BlobHeader::kBytes> bytes{};
    std::copy(BlobHeader::kMagic.begin(), BlobHeader::kMagic.end(), bytes.begin());
    store(bytes.data() + 8, header.root);
    store(bytes.data() + 16, header.metadata_bytes);
    store(bytes.data() + 24, header.inodes);
    store(bytes.data() + 28, crc32c(crc_, ByteView(bytes).first(28)));
    appender_.sink->patch(0, bytes);
  }

  [[nodiscard]] std::uint64_t position() const noexcept { return out_.total(); }

private:
  struct Appender {
    void write(ByteView bytes) const { sink->append(bytes); }

    PatchableSink* sink;
  };

  Appender appender_;
  nar::Gather<Appender> out_;
  std::uint32_t crc_ = ~std::uint32_t{0};
};

/// What is kept of a closed node until its directory is closed.
struct Entry {
  std::uint32_t slot = 0;
  std::uint16_t name_bytes = 0;
  FileType type = FileType::Regular;
};

/// An open directory: where its entries and names begin on the stacks that all open ones share.
struct Frame {
  std::size_t first_entry = 0;
  std::size_t first_name = 0;
};

} // namespace

struct Writer::State {
  State(ByteSink& data_sink, PatchableSink& metadata_sink)
      : data(data_sink), metadata(metadata_sink) {
    metadata.begin();
  }

  void begin_node(std::string_view call) const {
    if (expect != Expect::Node) {
      out_of_place(call);
    }
  }

  void end_node(std::uint64_t address, FileType type);
  void add_small(std::uint16_t mode, ByteView contents);
  void add_large(std::uint16_t mode, std::uint64_t size, std::uint64_t offset);
  void add_target(std::string_view target);
  std::uint64_t add_directory(const Frame& frame);
  [[nodiscard]] std::vector<Dirent> children_of(const Frame& frame) const;

  nar::Gather<ByteSink> data;
  MetadataStream metadata;
  Expect expect = Expect::Node;
  bool executable = false;
  std::uint64_t file_size = 0;
  std::uint64_t remaining = 0;
  Bytes small; ///< contents of the small file that is open
  std::vector<Frame> frames;
  std::vector<Entry> entries;
  std::string names;
  std::size_t last_name = 0; ///< of the innermost directory, in `names`
  BlobHeader header;
};

void Writer::State::end_node(std::uint64_t address, FileType type) {
  if (header.inodes == std::numeric_limits<std::uint32_t>::max()) {
    beyond("2^32 nodes");
  }
  ++header.inodes;
  if (frames.empty()) {
    header.root = address;
    expect = Expect::Nothing;
    return;
  }
  const std::uint64_t slot = address / kSlot;
  if (slot > std::numeric_limits<std::uint32_t>::max()) {
    beyond("128 GiB of metadata");
  }
  entries.back().slot = static_cast<std::uint32_t>(slot);
  entries.back().type = type;
  expect = Expect::Entry;
}

void Writer::State::add_small(std::uint16_t mode, ByteView contents) {
  InodeFields fields;
  fields.mode = mode;
  fields.size = contents.size();
  fields.layout = contents.empty() ? DataLayout::Plain : DataLayout::Inline;
  fields.number = header.inodes + 1;
  const auto address = placed(metadata.position(), kCompactInode + contents.size());
  metadata.pad_to(address);
  metadata.append(encode_inode(fields).view());
  metadata.append(contents);
  end_node(address, FileType::Regular);
}

void Writer::State::add_large(std::uint16_t mode, std::uint64_t size, std::uint64_t offset) {
  InodeFields fields;
  fields.mode = mode;
  fields.size = size;
  fields.number = header.inodes + 1;
  fields.block = static_cast<std::uint32_t>(offset / kBlock);
  const auto inode = encode_inode(fields);
  const auto address = placed(metadata.position(), inode.size);
  metadata.pad_to(address);
  metadata.append(inode.view());
  end_node(address, FileType::Regular);
}

void Writer::State::add_target(std::string_view target) {
  InodeFields fields;
  fields.mode = kModeSymlink;
  fields.size = target.size();
  fields.number = header.inodes + 1;
  const bool fits = kCompactInode + target.size() <= kBlock;
  const auto address =
      placed(metadata.position(), kCompactInode + (fits ? target.size() : std::size_t{0}));
  const auto block = align_up(address + kCompactInode, kBlock);
  fields.layout = fits ? DataLayout::Inline : DataLayout::Plain;
  fields.block = fits ? 0 : static_cast<std::uint32_t>(block / kBlock);
  metadata.pad_to(address);
  metadata.append(encode_inode(fields).view());
  if (!fits) {
    metadata.pad_to(block);
  }
  metadata.append(bytes_of(target));
  if (!fits) {
    metadata.pad_to(block + kBlock);
  }
  end_node(address, FileType::Symlink);
}

std::vector<Dirent> Writer::State::children_of(const Frame& frame) const {
  std::vector<Dirent> children;
  children.reserve(entries.size() - frame.first_entry + 2);
  std::size_t at = frame.first_name;
  for (std::size_t i = frame.first_entry; i < entries.size(); ++i) {
    const auto& entry = entries[i];
    children.push_back(
        {std::string_view(names).substr(at, entry.name_bytes), entry.slot, entry.type});
    at += entry.name_bytes;
  }
  return children;
}

std::uint64_t Writer::State::add_directory(const Frame& frame) {
  DirectoryLayout layout(children_of(frame));
  const auto address = placed(metadata.position(),
                              inode_bytes(layout.size(), layout.links()) + layout.inline_bytes());
  if ((address + layout.size()) / kBlock >= std::numeric_limits<std::uint32_t>::max() - 2) {
    beyond("2^32 blocks of metadata");
  }
  layout.set_nids(address / kSlot, 0);
  write_directory(layout, address, header.inodes + 1, metadata);
  return address;
}

Writer::Writer(ByteSink& data, PatchableSink& metadata)
    : state_(std::make_unique<State>(data, metadata)) {}

Writer::~Writer() = default;

void Writer::regular(bool executable, std::uint64_t size) {
  state_->begin_node("regular");
  const std::uint64_t block = state_->data.total() / kBlock;
  if (size > kInlineFile && (block + size / kBlock) >= std::numeric_limits<std::uint32_t>::max()) {
    beyond("2^32 blocks of data");
  }
  state_->executable = executable;
  state_->file_size = size;
  state_->remaining = size;
  state_->small.clear();
  state_->expect = Expect::Contents;
}

void Writer::contents(ByteView bytes) {
  if (state_->expect != Expect::Contents || bytes.size() > state_->remaining) {
    out_of_place("contents");
  }
  state_->remaining -= bytes.size();
  if (state_->file_size <= kInlineFile) {
    state_->small.insert(state_->small.end(), bytes.begin(), bytes.end());
  } else {
    state_->data.add(bytes);
  }
}

void Writer::regular_end() {
  if (state_->expect != Expect::Contents || state_->remaining != 0) {
    out_of_place("regular_end");
  }
  const std::uint16_t mode = state_->executable ? kModeExecutable : kModeRegular;
  const std::uint64_t size = state_->file_size;
  if (size <= kInlineFile) {
    state_->add_small(mode, state_->small);
    return;
  }
  const std::uint64_t offset = state_->data.total() - size;
  state_->data.zeros(align_up(size, kBlock) - size);
  state_->add_large(mode, size, offset);
}

void Writer::symlink(std::string_view target) {
  state_->begin_node("symlink");
  if (target.empty() || target.size() > kMaxTargetBytes ||
      target.find('\0') != std::string_view::npos) {
    throw Error(Reaction::Reject,
                "segment.target",
                fmt::format("symlink target of {} bytes is empty, longer than {} or has a NUL",
                            target.size(),
                            kMaxTargetBytes));
  }
  state_->add_target(target);
}

void Writer::directory() {
  state_->begin_node("directory");
  if (state_->frames.size() == kMaxDepth) {
    beyond(fmt::format("{} levels of directories", kMaxDepth));
  }
  state_->frames.push_back({state_->entries.size(), state_->names.size()});
  state_->last_name = state_->names.size();
  state_->expect = Expect::Entry;
}

void Writer::entry(std::string_view name) {
  auto& state = *state_;
  if (state.expect != Expect::Entry) {
    out_of_place("entry");
  }
  const auto last = std::string_view(state.names).substr(state.last_name);
  if (!nar::valid_name(name) || name.size() > kMaxNameBytes || name <= last) {
    throw Error(Reaction::Reject,
                "segment.name",
                fmt::format("entry name of {} bytes is no file name, longer than {}, or not sorted",
                            name.size(),
                            kMaxNameBytes));
  }
  state.last_name = state.names.size();
  state.names.append(name);
  Entry entry;
  entry.name_bytes = static_cast<std::uint16_t>(name.size());
  state.entries.push_back(entry);
  state.expect = Expect::Node;
}

void Writer::directory_end() {
  auto& state = *state_;
  if (state.expect != Expect::Entry) {
    out_of_place("directory_end");
  }
  const Frame frame = state.frames.back();
  const auto address = state.add_directory(frame);
  state.frames.pop_back();
  state.entries.resize(frame.first_entry);
  state.names.resize(frame.first_name);
  if (!state.entries.empty()) {
    state.last_name = state.names.size() - state.entries.back().name_bytes;
  }
  state.end_node(address, FileType::Directory);
}

void Writer::finish() {
  if (state_->expect != Expect::Nothing) {
    throw Error(
        Reaction::Reject, "segment.truncated", "tree of a segment ends before its root does");
  }
  state_->data.flush();
  state_->header.metadata_bytes = state_->metadata.position();
  state_->metadata.finish(state_->header);
}

std::uint64_t Writer::data_bytes() const noexcept {
  return state_->data.total();
}

std::uint64_t Writer::metadata_bytes() const noexcept {
  return state_->metadata.position();
}

} // namespace nixbuild::segment
