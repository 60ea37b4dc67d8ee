#include "store_state.hpp"

#include <shared_mutex>
#include <utility>

namespace nixbuild::store {

struct Lease::State {
  State(StoreState& of, AccountId whose) : store(of), account(whose) {}

  ~State() {
    keys.for_each([&](const PathKey& key) { store.release(account, key); });
  }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  StoreState& store;
  AccountId account;
  std::mutex mutex;
  KeyCounter keys;
};

Lease::Lease() = default;
Lease::~Lease() = default;
Lease::Lease(Lease&&) noexcept = default;
Lease& Lease::operator=(Lease&&) noexcept = default;

Lease Store::lease(AccountId account) {
  Lease lease;
  lease.state_ = std::make_unique<Lease::State>(*state_, account);
  return lease;
}

void Lease::add(const model::StorePath& path) {
  add({&path, 1});
}

void Lease::add(std::span<const model::StorePath> paths) {
  if (!state_) {
    return;
  }
  const std::shared_lock shared(state_->store.name_gate);
  const std::lock_guard lock(state_->mutex);
  for (const auto& path : paths) {
    const auto key = key_of(path);
    if (!state_->keys.contains(key)) {
      state_->store.hold(state_->account, key);
      state_->keys.add(key);
    }
  }
}

} // namespace nixbuild::store
