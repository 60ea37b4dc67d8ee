#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/segment/writer.hpp>

#include <cstdint>
#include <memory>
#include <optional>

namespace nixbuild::store {

/// A stored segment, open for reading. Stays readable after the segment has been deleted.
struct OpenSegment {
  UniqueFd metadata; ///< read-only
  std::uint64_t metadata_bytes = 0;
  UniqueFd data; ///< read-only; may be a descriptor of an empty file
  std::uint64_t data_bytes = 0;
};

/// A segment that is being written. Destroying it without `commit` leaves no trace.
class SegmentDraft {
public:
  virtual ~SegmentDraft() = default;
  virtual ByteSink& data() = 0;
  virtual segment::PatchableSink& metadata() = 0;
  /// Flushes, makes the blobs durable and readable under `nar_hash`. Already there: the draft is
  /// dropped. Error `store.disk-full` and other system errors; then nothing is visible.
  virtual void commit(const Hash& nar_hash) = 0;
};

/// Port: immutable segments by NAR hash, stored once for all accounts. Thread safe, synchronous.
class SegmentStore {
public:
  virtual ~SegmentStore() = default;
  virtual std::unique_ptr<SegmentDraft> begin() = 0;
  virtual std::optional<OpenSegment> open(const Hash& nar_hash) = 0;
  virtual bool contains(const Hash& nar_hash) = 0;
  virtual void remove(const Hash& nar_hash) = 0;
};

} // namespace nixbuild::store
