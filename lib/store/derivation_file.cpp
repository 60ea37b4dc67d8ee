#include "derivation_text.hpp"
#include "metadata_rules.hpp"
#include "stored_contents.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::store {

namespace {
constexpr std::uint64_t kDerivationBytes = 64 * kMiB;

void expect_file(const model::StoreDir& dir,
                 const model::StorePath& path,
                 const segment::Node& root) {
  if (root.type != segment::NodeType::Regular || root.size > kDerivationBytes) {
    throw Error(Reaction::Reject,
                "derivation.file",
                fmt::format("'{}' is not a derivation file", dir.print(path)));
  }
}
} // namespace

std::string
derivation_text(SegmentStore& segments, const model::StoreDir& dir, const model::PathInfo& info) {
  auto open = segments.open(info.nar_hash);
  if (!open) {
    throw_missing_segment(info);
  }
  const StoredContents contents(std::move(*open));
  const segment::Tree tree(contents.metadata(), contents.data_bytes());
  const auto root = tree.root();
  expect_file(dir, info.path, root);
  return read_contents(contents, root);
}

model::Derivation load_derivation(Store& store, AccountId account, const model::StorePath& path) {
  const auto source = store.open_export(account, path);
  const auto root = source.tree().root();
  expect_file(store.dir(), path, root);
  return model::parse_derivation(store.dir(), source.read_file(root, kDerivationBytes));
}

} // namespace nixbuild::store
