#include "tree_comparison.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

namespace nixbuild::build {

namespace {

using segment::NodeType;

/// Bytes that are shown of a difference.
constexpr std::size_t kShown = 8;

const char* kind_of(NodeType type) {
  switch (type) {
  case NodeType::Regular:
  case NodeType::Executable:
    return "a file";
  case NodeType::Symlink:
    return "a symlink";
  case NodeType::Directory:
    return "a folder";
  }
  return "";
}

bool is_file(const segment::Node& node) {
  return node.type == NodeType::Regular || node.type == NodeType::Executable;
}

std::string hex_of(ByteView bytes) {
  return bytes.empty() ? std::string("nothing")
                       : hex_encode(bytes.first(std::min(bytes.size(), kShown)));
}

} // namespace

TreeComparison::TreeComparison(const store::Export& stored, std::size_t most)
    : stored_(stored), most_(most), node_(stored.tree().root()) {}

void TreeComparison::differ_at(std::string_view name, const std::string& what) {
  ++differences_;
  if (lines_.size() < most_) {
    lines_.push_back(fmt::format("{}: {}", name, what));
  }
}

void TreeComparison::differ(const std::string& what) {
  differ_at(path_.empty() ? std::string_view(".") : std::string_view(path_), what);
}

/// Back to the folder around what has ended.
void TreeComparison::leave() {
  path_.resize(folders_.empty() ? 0 : folders_.back().path_length);
}

Bytes TreeComparison::stored_bytes(std::uint64_t offset, std::size_t count) const {
  const auto left = node_->size - std::min(node_->size, offset);
  Bytes bytes(static_cast<std::size_t>(std::min<std::uint64_t>(count, left)));
  if (node_->inlined) {
    const auto from =
        stored_.metadata().subspan(static_cast<std::size_t>(node_->offset + offset), bytes.size());
    std::copy(from.begin(), from.end(), bytes.begin());
    return bytes;
  }
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const auto got = system_call("store.io", "reading contents", [&] {
      return ::pread(stored_.data_fd(),
                     bytes.data() + filled,
                     bytes.size() - filled,
                     static_cast<off_t>(node_->offset + offset + filled));
    });
    if (got == 0) {
      throw Error(Reaction::Corrupt, "store.io", "contents end too early");
    }
    filled += static_cast<std::size_t>(got);
  }
  return bytes;
}

void TreeComparison::regular(bool executable, std::uint64_t size) {
  comparing_ = false;
  offset_ = 0;
  if (!node_) {
    return;
  }
  if (!is_file(*node_)) {
    differ(fmt::format("a file now, {} before", kind_of(node_->type)));
    return;
  }
  if (executable != (node_->type == NodeType::Executable)) {
    differ(executable ? "executable now, not before" : "not executable now, but before");
  }
  comparing_ = true;
  if (size != node_->size) {
    differ(fmt::format("{} bytes now, {} before", size, node_->size));
  }
}

void TreeComparison::contents(ByteView bytes) {
  if (comparing_) {
    const auto before = stored_bytes(offset_, bytes.size());
    const auto [now_at, before_at] =
        std::mismatch(bytes.begin(), bytes.end(), before.begin(), before.end());
    if (now_at != bytes.end()) {
      const auto at = static_cast<std::size_t>(now_at - bytes.begin());
      differ(fmt::format("differs from byte {} on: {} now, {} before",
                         offset_ + at,
                         hex_of(bytes.subspan(at)),
                         hex_of(ByteView(before).subspan(at))));
      comparing_ = false;
    }
  }
  offset_ += bytes.size();
}

void TreeComparison::regular_end() {
  leave();
}

void TreeComparison::symlink(std::string_view target) {
  if (node_ && node_->type != NodeType::Symlink) {
    differ(fmt::format("a symlink now, {} before", kind_of(node_->type)));
  } else if (node_ && node_->target != target) {
    differ(fmt::format("leads to '{}' now, to '{}' before", target, node_->target));
  }
  leave();
}

void TreeComparison::directory() {
  if (node_ && node_->type != NodeType::Directory) {
    differ(fmt::format("a folder now, {} before", kind_of(node_->type)));
  }
  Folder folder;
  folder.path_length = path_.size();
  if (!node_ || node_->type != NodeType::Directory) {
    ++unmatched_;
  } else {
    stored_.tree().children(*node_, [&](std::string_view name, const segment::Node& child) {
      folder.entries.emplace_back(name, child);
      return true;
    });
  }
  folders_.push_back(std::move(folder));
}

/// The stored entries from the next one on, up to the one of that name or to the end.
void TreeComparison::left_out(Folder& folder, std::optional<std::string_view> before) {
  while (folder.next < folder.entries.size() &&
         (!before || folder.entries[folder.next].first < *before)) {
    const auto& name = folder.entries[folder.next++].first;
    differ_at(path_.empty() ? name : path_ + "/" + name, "missing now");
  }
}

void TreeComparison::entry(std::string_view name) {
  auto& folder = folders_.back();
  left_out(folder, name);
  path_.append(path_.empty() ? "" : "/").append(name);
  node_.reset();
  if (folder.next < folder.entries.size() && folder.entries[folder.next].first == name) {
    node_ = folder.entries[folder.next++].second;
  } else if (unmatched_ == 0) {
    differ("new");
  }
}

void TreeComparison::directory_end() {
  auto& folder = folders_.back();
  left_out(folder, std::nullopt);
  // One without a counterpart has no stored entries, and is the innermost of its kind.
  folders_.pop_back();
  if (unmatched_ > 0) {
    --unmatched_;
  }
  leave();
}

} // namespace nixbuild::build
