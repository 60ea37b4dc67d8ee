#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/metadata_db.hpp>
#include <nixbuild/store/segment_store.hpp>

#include <memory>

/// The three ports in memory: for tests and for a store that is thrown away. Same rules and error
/// codes as the durable adapters.
namespace nixbuild::store {

[[nodiscard]] NIXBUILD_API std::unique_ptr<MetadataDb> make_memory_metadata();
/// Each segment holds one or two descriptors of memory files. Errors: `store.io`.
[[nodiscard]] NIXBUILD_API std::unique_ptr<SegmentStore> make_memory_segments();
[[nodiscard]] NIXBUILD_API std::unique_ptr<LogStore> make_memory_logs();

} // namespace nixbuild::store
