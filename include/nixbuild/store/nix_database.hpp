#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/model/store_path.hpp>

#include <span>
#include <string>

namespace nixbuild::store {

/// The bytes of a database as Nix keeps one of its store (schema 10), in which exactly these paths
/// are valid: hash, size, references, deriver and content address; no signatures, and the
/// registration time 1 for all, so that equal paths make equal bytes. References to other paths are
/// left out. Blocks: time and memory grow with the paths and their references. Errors:
/// `metadata.sqlite`, `store.disk-full` (no memory).
[[nodiscard]] NIXBUILD_API std::string nix_database(const model::StoreDir& dir,
                                                    std::span<const model::PathInfo> paths);

} // namespace nixbuild::store
