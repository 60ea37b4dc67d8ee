#include <nixbuild/base/error.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <fmt/format.h>

namespace nixbuild::store {

namespace {
constexpr std::uint64_t kDerivationBytes = 64 * kMiB;
} // namespace

model::Derivation load_derivation(Store& store, AccountId account, const model::StorePath& path) {
  const auto source = store.open_export(account, path);
  const auto root = source.tree().root();
  if (root.type != segment::NodeType::Regular || root.size > kDerivationBytes) {
    throw Error(Reaction::Reject,
                "derivation.file",
                fmt::format("'{}' is not a derivation file", store.dir().print(path)));
  }
  return model::parse_derivation(store.dir(), source.read_file(root, kDerivationBytes));
}

} // namespace nixbuild::store
