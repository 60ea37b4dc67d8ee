#pragma once

#include "sqlite_connection.hpp"

#include <nixbuild/store/metadata_db.hpp>

#include <optional>
#include <span>

/// Realisations in SQLite. Each function runs in the transaction of its caller.
namespace nixbuild::store {

/// Error `store.invalid-path`.
void insert_realisations(Connection& connection,
                         AccountId account,
                         std::span<const StoredRealisation> realisations);
[[nodiscard]] std::optional<model::Realisation>
select_realisation(Connection& connection, AccountId account, const RealisationKey& key);
/// Those of an account that is being removed.
void delete_realisations_of(Connection& connection, AccountId account);

} // namespace nixbuild::store
