#pragma once

#include "gate.hpp"
#include "hash_walk.hpp"
#include "key_counter.hpp"
#include "room.hpp"

#include <nixbuild/store/store.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

namespace nixbuild::store {

/// What the parts of the store share. Order of locking: gates, then `mutex`.
struct StoreState {
  StoreState(MetadataDb& metadata, SegmentStore& blobs, const Clock& time, model::StoreDir logical)
      : db(metadata), segments(blobs), clock(time), dir(std::move(logical)), room(metadata) {}

  MetadataDb& db;
  SegmentStore& segments;
  const Clock& clock;
  model::StoreDir dir;
  Room room;
  KnownHashes hashes;

  /// Shared: adding a lease, registering. Alone: removing names, so that nothing becomes needed
  /// between the last look and the removal.
  Gate name_gate;
  /// Shared: completing or claiming a segment. Alone: removing one.
  Gate segment_gate;
  /// One collection at a time.
  std::mutex collection;

  void hold(AccountId account, const PathKey& key);
  void release(AccountId account, const PathKey& key);
  /// What is held for the account now.
  [[nodiscard]] KeyCounter held(AccountId account);
  /// A sealed path: kept together with its references and its contents until `unseal` or for an
  /// hour (whoever sealed it may be gone).
  void seal(AccountId account, const model::PathInfo& info);
  void unseal(AccountId account, const model::PathInfo& info);
  /// True when it is sealed for some account or claimed.
  [[nodiscard]] bool claimed(const Hash& nar_hash);
  void claim(const Hash& nar_hash);
  void disclaim(const Hash& nar_hash);

  /// Begins to note which of the account's paths become needed from now on; returns those that are
  /// needed already.
  [[nodiscard]] std::shared_ptr<const KeyCounter> begin_collection(AccountId account);
  /// The ones noted; goes on noting.
  [[nodiscard]] KeyCounter touched_since();
  void end_collection();

  /// Notes paths that are about to be registered.
  void touch(AccountId account, const model::PathInfo& info);

private:
  struct Sealed {
    unsigned count = 0;
    MonotonicTime last;
    std::vector<PathKey> references;
  };

  using SealedKey = std::tuple<AccountId, PathKey, Hash>;

  void note(AccountId account, const PathKey& key);
  void forget_claim(const Hash& nar_hash);
  void drop_old_seals();

  std::mutex mutex_;
  std::map<AccountId, KeyCounter> held_;
  std::map<SealedKey, Sealed> sealed_;
  std::map<Hash, unsigned> claims_;
  std::optional<AccountId> collecting_;
  KeyCounter touched_;
};

struct Store::State : StoreState {
  using StoreState::StoreState;
};

/// Removes contents that no name and no claim keeps; returns the bytes freed.
std::uint64_t remove_segment_if_unused(StoreState& state, const Hash& nar_hash);

} // namespace nixbuild::store
