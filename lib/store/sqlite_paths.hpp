#pragma once

#include "path_key.hpp"
#include "sqlite_connection.hpp"

#include <nixbuild/store/metadata_db.hpp>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// Questions and changes about paths, inside a transaction of the caller. Bulk questions are asked
/// in key order, which touches each page of the database once.
namespace nixbuild::store {

[[nodiscard]] model::StorePaths select_valid(Connection& connection,
                                             AccountId account,
                                             std::span<const model::StorePath> paths);
/// The valid ones among `paths`, in the order asked. Memory: about 1 KiB a path, so callers ask
/// in pieces.
[[nodiscard]] std::vector<model::PathInfo> select_infos(Connection& connection,
                                                        AccountId account,
                                                        std::span<const model::StorePath> paths);
[[nodiscard]] model::StorePaths select_closure(Connection& connection,
                                               AccountId account,
                                               std::span<const model::StorePath> roots);
[[nodiscard]] model::StorePaths select_all(Connection& connection, AccountId account);
[[nodiscard]] std::optional<model::StorePath>
select_by_key(Connection& connection, AccountId account, const PathKey& key);
[[nodiscard]] model::StorePaths
select_referrers(Connection& connection, AccountId account, const model::StorePath& path);

void insert_paths(Connection& connection,
                  AccountId account,
                  std::span<const model::PathInfo> infos);
void update_signatures(Connection& connection,
                       AccountId account,
                       const model::StorePath& path,
                       std::span<const std::string> signatures);
void delete_paths(Connection& connection,
                  AccountId account,
                  std::span<const model::StorePath> paths);

} // namespace nixbuild::store
