#pragma once

#include "path_key.hpp"
#include "sqlite_connection.hpp"

#include <nixbuild/store/metadata_db.hpp>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// Questions and changes about paths, inside a transaction of the caller. Bulk questions are asked
/// in key order, which touches each page of the database once.
namespace nixbuild::store {

[[nodiscard]] model::StorePaths
select_valid(Connection& connection, AccountId account, std::span<const model::StorePath> paths);

/// Base names by row number, kept while a long question is answered in pieces: about 64 bytes each,
/// at most kMost of them.
class RowNames {
public:
  /// Looks up those of `rows` (ascending, unique) that are not known yet. What is known of others
  /// may be dropped.
  void learn(Connection& connection, const std::vector<std::int64_t>& rows);
  /// Takes a name that is at hand, unless it is known or the room is used up.
  void learn(std::int64_t row, const model::StorePath& path);
  /// The path of a row that was learned.
  [[nodiscard]] model::StorePath path(std::int64_t row) const;

private:
  static constexpr std::size_t kMost = 150'000;

  [[nodiscard]] bool knows(std::int64_t row) const noexcept;
  void set_place(std::int64_t row, std::size_t name_bytes);

  /// Row → 1 + offset in `names_`; 0: not known. In pages, so that a question about few paths of a
  /// large database does not pay for all rows.
  static constexpr std::size_t kPage = 1024;
  using Page = std::array<std::uint32_t, kPage>;
  std::vector<std::unique_ptr<Page>> places_;
  std::string names_; ///< one byte of length and the base name each
  std::size_t count_ = 0;
};

/// Calls `visit` for the valid ones among `paths`, in the order asked. Memory: about 1 KiB a path,
/// so callers ask in pieces.
void select_infos(Connection& connection,
                  AccountId account,
                  std::span<const model::StorePath> paths,
                  RowNames& names,
                  const std::function<void(const model::PathInfo&)>& visit);
[[nodiscard]] model::StorePaths
select_closure(Connection& connection, AccountId account, std::span<const model::StorePath> roots);
[[nodiscard]] model::StorePaths select_all(Connection& connection, AccountId account);
[[nodiscard]] std::uint64_t select_stored_bytes(Connection& connection, AccountId account);
[[nodiscard]] std::optional<model::StorePath>
select_by_key(Connection& connection, AccountId account, const PathKey& key);
[[nodiscard]] model::StorePaths
select_named(Connection& connection, AccountId account, std::span<const std::string> names);
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
