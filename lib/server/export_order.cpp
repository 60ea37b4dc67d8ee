#include "export_order.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace nixbuild::server {

model::StorePaths references_first(store::MetadataDb& db,
                                   const model::StoreDir& dir,
                                   store::AccountId account,
                                   model::StorePaths paths) {
  model::sort_unique(paths);
  std::vector<std::vector<std::size_t>> references; // that are among the paths
  const auto note = [&](const model::PathInfo& info) {
    auto& of_path = references.emplace_back();
    for (const auto& reference : info.references) {
      const auto found = std::lower_bound(paths.begin(), paths.end(), reference);
      if (found != paths.end() && *found == reference) {
        of_path.push_back(static_cast<std::size_t>(found - paths.begin()));
      }
    }
  };
  db.path_infos(account, paths, note);
  if (references.size() != paths.size()) {
    const auto valid = db.valid_paths(account, paths);
    const auto [missing, unused] =
        std::mismatch(paths.begin(), paths.end(), valid.begin(), valid.end());
    throw Error(Reaction::NotFound,
                "store.invalid-path",
                fmt::format("path '{}' is not valid",
                            missing == paths.end() ? std::string() : dir.print(*missing)));
  }
  model::StorePaths ordered;
  ordered.reserve(paths.size());
  std::vector<bool> seen(paths.size());
  std::vector<std::pair<std::size_t, std::size_t>> open; // a path, and how far in its references
  for (std::size_t root = 0; root < paths.size(); ++root) {
    if (seen[root]) {
      continue;
    }
    seen[root] = true;
    open.emplace_back(root, 0);
    while (!open.empty()) {
      auto& [path, next] = open.back();
      if (next == references[path].size()) {
        ordered.push_back(paths[path]);
        open.pop_back();
        continue;
      }
      const auto reference = references[path][next++];
      if (!seen[reference]) {
        seen[reference] = true;
        open.emplace_back(reference, 0);
      }
    }
  }
  return ordered;
}

} // namespace nixbuild::server
