#include "metadata_rules.hpp"
#include "store_state.hpp"
#include "stored_contents.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace nixbuild::store {

struct Export::State {
  State(model::PathInfo of, OpenSegment open)
      : info(std::move(of)), contents(std::move(open)),
        tree(contents.metadata(), contents.data_bytes()) {}

  model::PathInfo info;
  StoredContents contents;
  segment::Tree tree;
  std::optional<segment::NarSource> source; ///< made with the first piece
};

Export::Export(std::unique_ptr<State> state) : state_(std::move(state)) {}

Export::~Export() = default;
Export::Export(Export&&) noexcept = default;
Export& Export::operator=(Export&&) noexcept = default;

Export Store::open_export(AccountId account, const model::StorePath& path) {
  auto info = state_->db.path_info(account, path);
  if (!info) {
    throw_invalid_path(path);
  }
  auto open = state_->segments.open(info->nar_hash);
  if (!open) {
    if (state_->db.valid_paths(account, {&path, 1}).empty()) {
      throw_invalid_path(path); // collected at this moment
    }
    throw Error(Reaction::Corrupt,
                "store.missing-segment",
                fmt::format("path '{}' is valid, its contents (sha256:{}) are missing",
                            path.base_name(),
                            nix32_encode(info->nar_hash.bytes())));
  }
  return Export(std::make_unique<Export::State>(std::move(*info), std::move(*open)));
}

const model::PathInfo& Export::info() const noexcept {
  return state_->info;
}

std::optional<segment::NarPiece> Export::next() {
  if (!state_->source) {
    state_->source.emplace(metadata(), data_bytes());
  }
  return state_->source->next();
}

int Export::data_fd() const noexcept {
  return state_->contents.data_fd();
}

std::uint64_t Export::data_bytes() const noexcept {
  return state_->contents.data_bytes();
}

const segment::Tree& Export::tree() const noexcept {
  return state_->tree;
}

std::string Export::read_file(const segment::Node& file, std::uint64_t limit) const {
  if (file.size > limit) {
    throw Error(Reaction::Reject,
                "store.file-limit",
                fmt::format("a file of {} bytes in '{}' exceeds {}",
                            file.size,
                            state_->info.path.base_name(),
                            limit));
  }
  std::string contents(static_cast<std::size_t>(file.size), '\0');
  if (file.inlined) {
    const auto bytes = metadata().subspan(static_cast<std::size_t>(file.offset), contents.size());
    std::copy(bytes.begin(), bytes.end(), contents.begin());
    return contents;
  }
  std::size_t have = 0;
  while (have < contents.size()) {
    const auto count = system_call("store.read", "reading stored contents", [&] {
      return ::pread(data_fd(),
                     contents.data() + have,
                     contents.size() - have,
                     static_cast<off_t>(file.offset + have));
    });
    if (count == 0) {
      throw Error(Reaction::Corrupt, "store.short-data", "stored contents end too early");
    }
    have += static_cast<std::size_t>(count);
  }
  return contents;
}

ByteView Export::metadata() const noexcept {
  return state_->contents.metadata();
}

} // namespace nixbuild::store
