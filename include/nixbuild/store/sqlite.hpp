#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <cstddef>
#include <filesystem>
#include <memory>

namespace nixbuild::store {

/// How the embedded database works. The defaults suit a daemon.
struct SqliteOptions {
  /// True: a registration has reached the disk when the call returns. False: it survives the death
  /// of the process, but the last ones may be lost with the power.
  bool durable = true;
  /// Page cache of the one writing connection in KiB. Each thread that reads at the same time uses
  /// a connection with a quarter of it.
  std::size_t cache_kib = 8192;
  /// Reading connections kept open while nobody uses them.
  std::size_t idle_readers = 4;
};

/// Version of the schema that this library writes (SQLite's `user_version`).
inline constexpr int kSqliteSchemaVersion = 9;

/// Opens the database at `path`, makes it when missing, and brings an older schema up to date in
/// one transaction. One thread writes; what several callers ask for at the same time goes into one
/// commit. Readers see a snapshot and never wait for the writer. Errors: `metadata.newer` (made by
/// a later version), `metadata.corrupt`, `metadata.sqlite`, `store.disk-full`.
[[nodiscard]] NIXBUILD_API std::unique_ptr<MetadataDb>
open_sqlite_metadata(const std::filesystem::path& path, const SqliteOptions& options = {});

} // namespace nixbuild::store
