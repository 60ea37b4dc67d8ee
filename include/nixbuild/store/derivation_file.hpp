#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/store/store.hpp>

namespace nixbuild::store {

/// The derivation in a valid `.drv`. Blocking. Errors: `derivation.file` (it is no regular file, or
/// larger than 64 MiB), `derivation.*`, `store.invalid-path`.
[[nodiscard]] NIXBUILD_API model::Derivation
load_derivation(Store& store, AccountId account, const model::StorePath& path);

} // namespace nixbuild::store
