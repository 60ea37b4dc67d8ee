#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/segment_store.hpp>

#include <filesystem>
#include <memory>

namespace nixbuild::store {

struct FileSegmentOptions {
  /// True: `SegmentStore::sync` waits until the contents have reached the disk. False: they survive
  /// the death of the process, but the last ones may be lost with the power.
  bool durable = true;
};

/// Segments as files: `segments/<2 characters>/<nix32 of the NAR hash>.{meta,data}` below `dir`,
/// which is made when missing. What is being written lies in `drafts/` and is removed at the next
/// start when the process dies. A segment exists exactly when its `.meta` file does; an empty data
/// blob has no file. One process at a time. Errors: `store.locked`, `store.io`, `store.disk-full`.
[[nodiscard]] NIXBUILD_API std::unique_ptr<SegmentStore>
open_file_segments(const std::filesystem::path& dir, const FileSegmentOptions& options = {});

/// Logs as files below `dir`, which is made when missing: plain text while a log grows, afterwards
/// zstd frames of 256 KiB each with a seek table at the end (any zstd program reads them). Errors:
/// `log.finished` (append to a finished log), `log.corrupt`, `store.io`, `store.disk-full`.
[[nodiscard]] NIXBUILD_API std::unique_ptr<LogStore>
open_file_logs(const std::filesystem::path& dir);

} // namespace nixbuild::store
