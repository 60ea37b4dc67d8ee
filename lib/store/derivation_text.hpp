#pragma once

#include <nixbuild/model/path_info.hpp>
#include <nixbuild/store/segment_store.hpp>

#include <string>

namespace nixbuild::store {

/// The text of a `.drv` whose contents are in the store, registered or not. Errors:
/// `derivation.file` (it is no regular file, or larger than 64 MiB), `store.missing-segment`.
[[nodiscard]] std::string
derivation_text(SegmentStore& segments, const model::StoreDir& dir, const model::PathInfo& info);

} // namespace nixbuild::store
