#include "store_state.hpp"

#include <algorithm>
#include <chrono>
#include <shared_mutex>

namespace nixbuild::store {

namespace {

constexpr std::chrono::hours kSealLifetime{1};

} // namespace

void StoreState::note(AccountId account, const PathKey& key) {
  if (collecting_ == account) {
    touched_.add(key);
  }
}

void StoreState::hold(AccountId account, const PathKey& key) {
  const std::lock_guard lock(mutex_);
  held_[account].add(key);
  note(account, key);
}

void StoreState::release(AccountId account, const PathKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(account);
  if (found != held_.end()) {
    found->second.remove(key);
    if (found->second.size() == 0) {
      held_.erase(found);
    }
  }
}

void StoreState::touch(AccountId account, const model::PathInfo& info) {
  const std::lock_guard lock(mutex_);
  note(account, key_of(info.path));
  for (const auto& reference : info.references) {
    note(account, key_of(reference));
  }
}

void StoreState::seal(AccountId account, const model::PathInfo& info) {
  const std::lock_guard lock(mutex_);
  auto& sealed = sealed_[{account, key_of(info.path), info.nar_hash}];
  ++sealed.count;
  sealed.last = clock.monotonic();
  sealed.references.clear();
  note(account, key_of(info.path));
  for (const auto& reference : info.references) {
    sealed.references.push_back(key_of(reference));
    note(account, sealed.references.back());
  }
  ++claims_[info.nar_hash];
}

void StoreState::forget_claim(const Hash& nar_hash) {
  const auto found = claims_.find(nar_hash);
  if (found != claims_.end() && --found->second == 0) {
    claims_.erase(found);
  }
}

void StoreState::unseal(AccountId account, const model::PathInfo& info) {
  const std::lock_guard lock(mutex_);
  const auto found = sealed_.find({account, key_of(info.path), info.nar_hash});
  if (found != sealed_.end()) {
    forget_claim(info.nar_hash);
    if (--found->second.count == 0) {
      sealed_.erase(found);
    }
  }
}

bool StoreState::claimed(const Hash& nar_hash) {
  const std::lock_guard lock(mutex_);
  return claims_.contains(nar_hash);
}

void StoreState::claim(const Hash& nar_hash) {
  const std::lock_guard lock(mutex_);
  ++claims_[nar_hash];
}

void StoreState::disclaim(const Hash& nar_hash) {
  const std::lock_guard lock(mutex_);
  forget_claim(nar_hash);
}

void StoreState::drop_old_seals() {
  const auto now = clock.monotonic();
  for (auto at = sealed_.begin(); at != sealed_.end();) {
    if (now - at->second.last < kSealLifetime) {
      ++at;
      continue;
    }
    for (unsigned i = 0; i < at->second.count; ++i) {
      forget_claim(std::get<Hash>(at->first));
    }
    at = sealed_.erase(at);
  }
}

KeyCounter StoreState::held(AccountId account) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(account);
  return found == held_.end() ? KeyCounter() : found->second;
}

std::shared_ptr<const KeyCounter> StoreState::begin_collection(AccountId account) {
  const std::lock_guard lock(mutex_);
  drop_old_seals();
  const auto found = held_.find(account);
  auto needed = std::make_shared<KeyCounter>(found == held_.end() ? KeyCounter() : found->second);
  for (const auto& [key, sealed] : sealed_) {
    if (std::get<AccountId>(key) == account) {
      needed->add(std::get<PathKey>(key));
      for (const auto& reference : sealed.references) {
        needed->add(reference);
      }
    }
  }
  collecting_ = account;
  touched_ = KeyCounter();
  return needed;
}

KeyCounter StoreState::touched_since() {
  const std::lock_guard lock(mutex_);
  return touched_;
}

void StoreState::end_collection() {
  const std::lock_guard lock(mutex_);
  collecting_.reset();
  touched_ = KeyCounter();
}

std::uint64_t remove_segment_if_unused(StoreState& state, const Hash& nar_hash) {
  if (state.claimed(nar_hash) || state.db.nar_hash_in_use(nar_hash)) {
    return 0;
  }
  const std::lock_guard alone(state.segment_gate);
  if (state.claimed(nar_hash) || state.db.nar_hash_in_use(nar_hash)) {
    return 0;
  }
  std::uint64_t bytes = 0;
  if (const auto open = state.segments.open(nar_hash)) {
    bytes = open->metadata_bytes + open->data_bytes;
  }
  state.segments.remove(nar_hash);
  return bytes;
}

} // namespace nixbuild::store
