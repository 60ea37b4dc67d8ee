#include "metadata_rules.hpp"
#include "store_state.hpp"
#include "stored_contents.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

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
    throw_missing_segment(*info);
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
  return read_contents(state_->contents, file);
}

ByteView Export::metadata() const noexcept {
  return state_->contents.metadata();
}

} // namespace nixbuild::store
