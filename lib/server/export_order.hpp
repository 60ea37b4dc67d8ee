#pragma once

#include <nixbuild/store/metadata_db.hpp>

namespace nixbuild::server {

/// `paths` once each, every one behind those among them that it refers to, for who registers them
/// one by one. Among unrelated ones the smaller path comes first. Blocking. Error
/// `store.invalid-path` naming one that is not valid.
[[nodiscard]] model::StorePaths references_first(store::MetadataDb& db,
                                                 const model::StoreDir& dir,
                                                 store::AccountId account,
                                                 model::StorePaths paths);

} // namespace nixbuild::server
