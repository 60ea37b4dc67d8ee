#include "room.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace nixbuild::store {

namespace {

std::string name_of_account(MetadataDb& db, AccountId account) {
  const auto all = db.accounts();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.id == account; });
  return found == all.end() ? std::to_string(account.value) : found->name;
}

/// True when `bytes` more are too many; safe for every announced size.
bool exceeds(std::uint64_t limit, std::uint64_t used, std::uint64_t bytes) {
  return used > limit || bytes > limit - used;
}

} // namespace

void Room::set_limit(AccountId account, std::optional<std::uint64_t> bytes) {
  const std::lock_guard lock(mutex_);
  if (!bytes && !holdings_.contains(account)) {
    return;
  }
  auto& holding = holdings_[account];
  if (!holding.limit) {
    holding.used.reset(); // nobody has counted along
  }
  holding.limit = bytes;
}

bool Room::limited(AccountId account) {
  const std::lock_guard lock(mutex_);
  const auto found = holdings_.find(account);
  return found != holdings_.end() && found->second.limit;
}

void Room::expect_locked(AccountId account, Holding& holding, std::uint64_t bytes) {
  if (!holding.limit) {
    return;
  }
  const auto limit = *holding.limit;
  const bool known = holding.used.has_value();
  if (!known) {
    holding.used = db_.stored_bytes(account);
  }
  if (exceeds(limit, *holding.used + holding.taken, bytes) && known) {
    holding.used = db_.stored_bytes(account);
  }
  if (exceeds(limit, *holding.used + holding.taken, bytes)) {
    throw Error(Reaction::Denied,
                "store.account-full",
                fmt::format("the store of account '{}' is full: its limit (max-store-bytes) is {} "
                            "bytes, {} are used, and {} more do not fit; nixbuild gc makes room",
                            name_of_account(db_, account),
                            limit,
                            *holding.used + holding.taken,
                            bytes));
  }
}

void Room::expect(AccountId account, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = holdings_.find(account);
  if (found != holdings_.end()) {
    expect_locked(account, found->second, bytes);
  }
}

std::optional<std::uint64_t> Room::left(AccountId account) {
  const std::lock_guard lock(mutex_);
  const auto found = holdings_.find(account);
  if (found == holdings_.end() || !found->second.limit) {
    return std::nullopt;
  }
  auto& holding = found->second;
  // Asked anew: an import that may take all that is left shall not be cut short by an old count.
  holding.used = db_.stored_bytes(account);
  const auto used = *holding.used + holding.taken;
  return *holding.limit - std::min(*holding.limit, used);
}

Room::Taken::Taken(Room& room, AccountId account, std::span<const model::PathInfo> infos)
    : room_(room), account_(account) {
  if (infos.empty() || !room_.limited(account)) {
    return;
  }
  model::StorePaths paths;
  for (const auto& info : infos) {
    paths.push_back(info.path);
  }
  const auto valid = room_.db_.valid_paths(account, paths);
  std::set<model::StorePath> counted(valid.begin(), valid.end());
  std::uint64_t bytes = 0;
  for (const auto& info : infos) {
    if (counted.insert(info.path).second) {
      bytes += info.nar_size;
    }
  }
  if (bytes == 0) {
    return; // nothing new: it fits however full the store is
  }
  const std::lock_guard lock(room_.mutex_);
  const auto found = room_.holdings_.find(account);
  if (found != room_.holdings_.end()) {
    room_.expect_locked(account, found->second, bytes);
    found->second.taken += bytes;
    bytes_ = bytes;
  }
}

Room::Taken::~Taken() {
  if (bytes_ == 0) {
    return;
  }
  const std::lock_guard lock(room_.mutex_);
  const auto found = room_.holdings_.find(account_);
  if (found == room_.holdings_.end()) {
    return;
  }
  auto& holding = found->second;
  holding.taken -= std::min(holding.taken, bytes_);
  if (kept_ && holding.used) {
    *holding.used += bytes_;
  }
}

} // namespace nixbuild::store
