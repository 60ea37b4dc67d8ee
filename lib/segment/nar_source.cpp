#include "nar/tokens.hpp"
#include "segment/directory.hpp"
#include "segment/inode.hpp"
#include "segment/scan.hpp"

#include <nixbuild/nar/name.hpp>
#include <nixbuild/segment/reader.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace nixbuild::segment {

namespace {

constexpr std::size_t kGather = 64 * kKiB;
/// More than one step adds: an entry with its name, an inline file or a target.
constexpr std::size_t kStep = 8 * kKiB;

} // namespace

struct NarSource::State {
  State(ByteView metadata, std::uint64_t data_bytes) : blobs{metadata, data_bytes} {
    buffer.reserve(kGather);
    const auto header = read_header(blobs);
    add(nar::kMagic);
    node(decode_inode(blobs, header.root));
  }

  std::optional<NarPiece> next();

  void add(ByteView bytes) { buffer.insert(buffer.end(), bytes.begin(), bytes.end()); }

  void add_text(ByteView bytes) {
    add(nar::u64_bytes(bytes.size()));
    add(bytes);
    buffer.resize(buffer.size() + static_cast<std::size_t>(nar::padding_of(bytes.size())));
  }

  void node(const Inode& inode);

  void end_node() { add(frames.empty() ? ByteView(nar::kClose) : ByteView(nar::kCloseBoth)); }

  void step();

  Blobs blobs;
  Bytes buffer;
  std::vector<DirectoryCursor> frames;
  DataPiece contents;          ///< of a file whose head is in the buffer
  std::uint64_t padding = 0;   ///< behind `contents`
  bool contents_due = false;   ///< `contents` is still to be handed out
  bool contents_given = false; ///< the file's end is still to be written
  bool given = false;          ///< the caller has seen the buffer
};

void NarSource::State::node(const Inode& inode) {
  switch (inode.type) {
  case NodeType::Directory:
    if (frames.size() >= kMaxDepth) {
      corrupt("directory that is too deep", inode.address);
    }
    add(nar::kDirectory);
    frames.emplace_back(blobs, inode);
    return;
  case NodeType::Symlink:
    add(nar::kSymlink);
    add(nar::kTarget);
    add_text(bytes_of(target_of(blobs, inode)));
    end_node();
    return;
  case NodeType::Regular:
  case NodeType::Executable:
    break;
  }
  add(nar::kRegular);
  add(inode.type == NodeType::Executable ? ByteView(nar::kExecutable) : ByteView(nar::kContents));
  if (inode.size == inode.inline_bytes) {
    add_text(blobs.metadata.subspan(static_cast<std::size_t>(inode.inline_begin()),
                                    static_cast<std::size_t>(inode.size)));
    end_node();
    return;
  }
  add(nar::u64_bytes(inode.size));
  contents = {inode.data_offset, inode.size};
  padding = nar::padding_of(inode.size);
  contents_due = true;
}

void NarSource::State::step() {
  if (const auto entry = frames.back().next(blobs)) {
    add(nar::kEntry);
    add_text(bytes_of(entry->name));
    add(nar::kNode);
    node(decode_child(blobs, *entry));
  } else {
    frames.pop_back();
    end_node();
  }
}

std::optional<NarPiece> NarSource::State::next() {
  if (std::exchange(given, false)) {
    buffer.clear();
  }
  if (std::exchange(contents_given, false)) {
    buffer.resize(buffer.size() + static_cast<std::size_t>(padding));
    end_node();
  }
  while (!contents_due && !frames.empty() && buffer.size() + kStep <= kGather) {
    step();
  }
  if (!buffer.empty()) {
    given = true;
    return LiteralPiece{buffer};
  }
  if (contents_due) {
    contents_due = false;
    contents_given = true;
    return contents;
  }
  return std::nullopt;
}

NarSource::NarSource(ByteView metadata, std::uint64_t data_bytes)
    : state_(std::make_unique<State>(metadata, data_bytes)) {}

NarSource::~NarSource() = default;
NarSource::NarSource(NarSource&&) noexcept = default;
NarSource& NarSource::operator=(NarSource&&) noexcept = default;

std::optional<NarPiece> NarSource::next() {
  return state_->next();
}

} // namespace nixbuild::segment
