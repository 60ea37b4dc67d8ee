#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/segment/writer.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

namespace nixbuild::store {

/// A stored segment, open for reading. Stays readable after the segment has been deleted.
struct OpenSegment {
  UniqueFd metadata; ///< read-only
  std::uint64_t metadata_bytes = 0;
  UniqueFd data; ///< read-only; none, or one of an empty file, when `data_bytes` is 0
  std::uint64_t data_bytes = 0;
};

/// A segment that is being written. Destroying it without `commit` leaves no trace.
class SegmentDraft {
public:
  virtual ~SegmentDraft() = default;
  virtual ByteSink& data() = 0;
  virtual segment::PatchableSink& metadata() = 0;
  /// Completes the blobs and makes them readable under `nar_hash`; they are durable after
  /// `SegmentStore::sync` and gone after a restart without it. Already there: the draft is dropped.
  /// Errors `store.disk-full`, `store.io`; then nothing is visible.
  virtual void commit(const Hash& nar_hash) = 0;
};

/// Port: immutable segments by NAR hash, stored once for all accounts. Thread safe, synchronous.
class SegmentStore {
public:
  virtual ~SegmentStore() = default;
  virtual std::unique_ptr<SegmentDraft> begin() = 0;
  virtual std::optional<OpenSegment> open(const Hash& nar_hash) = 0;
  virtual bool contains(const Hash& nar_hash) = 0;
  /// Makes committed segments durable, all with as few waits for the disk as possible. On an error
  /// (`store.disk-full`, `store.io`, `store.missing-segment`) none of those that were not durable
  /// before is kept for sure.
  virtual void sync(std::span<const Hash> nar_hashes) = 0;
  /// Calls `visit` for each segment there was at the time of the call; it may call back.
  virtual void visit(const std::function<void(const Hash&)>& visit) = 0;
  /// Absent already: nothing happens.
  virtual void remove(const Hash& nar_hash) = 0;
};

} // namespace nixbuild::store
