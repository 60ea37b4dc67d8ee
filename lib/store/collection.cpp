#include "store_state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace nixbuild::store {

namespace {

model::StorePaths without(const model::StorePaths& paths, const model::StorePaths& taken) {
  model::StorePaths rest;
  std::set_difference(
      paths.begin(), paths.end(), taken.begin(), taken.end(), std::back_inserter(rest));
  return rest;
}

/// One account's collection, from its first look to its end.
class Collection {
public:
  Collection(StoreState& state, AccountId account, std::span<const model::StorePath> roots)
      : state_(state), account_(account), alone_(state.collection),
        needed_(*state.begin_collection(account)) {
    try {
      for (const auto& root : roots) {
        needed_.add(key_of(root));
      }
      all_ = state_.db.all_paths(account);
      live_ = live_among(all_, needed_);
    } catch (...) {
      state_.end_collection();
      throw;
    }
  }

  ~Collection() { state_.end_collection(); }

  Collection(const Collection&) = delete;
  Collection& operator=(const Collection&) = delete;

  [[nodiscard]] model::StorePaths& live() noexcept { return live_; }

  /// Those among `paths` that `keys` has, with all that they need.
  [[nodiscard]] model::StorePaths live_among(const model::StorePaths& paths,
                                             const KeyCounter& keys) const {
    model::StorePaths found;
    std::copy_if(paths.begin(), paths.end(), std::back_inserter(found), [&](const auto& path) {
      return keys.contains(key_of(path));
    });
    return state_.db.closure(account_, found);
  }

  /// `wanted`, and what refers to it. Errors as GcOrder says.
  [[nodiscard]] model::StorePaths chosen(const model::StorePaths& wanted,
                                         bool with_referrers) const;
  /// A beginning of `dead`, in an order in which nothing goes before what refers to it, of at least
  /// `enough` NAR bytes if there is so much.
  [[nodiscard]] model::StorePaths enough_of(const model::StorePaths& dead,
                                            std::uint64_t enough) const;
  /// Removes the names of `dead`, but for what has become needed since.
  [[nodiscard]] model::StorePaths remove(const model::StorePaths& dead, bool all_or_nothing);

  [[nodiscard]] model::StorePaths dead() const { return without(all_, live_); }

private:
  [[noreturn]] void throw_in_use(const model::StorePath& path) const {
    throw Error(Reaction::Denied,
                "store.in-use",
                fmt::format("path '{}' cannot be deleted: it is in use, or something that is in "
                            "use needs it",
                            state_.dir.print(path)));
  }

  StoreState& state_;
  AccountId account_;
  std::lock_guard<std::mutex> alone_; // one at a time
  KeyCounter needed_;
  model::StorePaths all_;
  model::StorePaths live_;
};

model::StorePaths Collection::chosen(const model::StorePaths& wanted, bool with_referrers) const {
  std::set<model::StorePath> found(wanted.begin(), wanted.end());
  model::StorePaths queue = wanted;
  while (!queue.empty()) {
    const auto path = std::move(queue.back());
    queue.pop_back();
    if (!std::binary_search(all_.begin(), all_.end(), path)) {
      throw Error(Reaction::NotFound,
                  "store.invalid-path",
                  fmt::format("path '{}' is not valid", state_.dir.print(path)));
    }
    if (std::binary_search(live_.begin(), live_.end(), path)) {
      throw_in_use(path);
    }
    for (auto& referrer : state_.db.referrers(account_, path)) {
      if (found.contains(referrer)) {
        continue;
      }
      if (!with_referrers) {
        throw Error(Reaction::Denied,
                    "store.referenced",
                    fmt::format("path '{}' cannot be deleted: '{}' refers to it",
                                state_.dir.print(path),
                                state_.dir.print(referrer)));
      }
      found.insert(referrer);
      queue.push_back(std::move(referrer));
    }
  }
  return {found.begin(), found.end()};
}

model::StorePaths Collection::enough_of(const model::StorePaths& dead, std::uint64_t enough) const {
  struct Entry {
    std::uint64_t bytes = 0;
    std::size_t referrers = 0; // that are dead, too, and still there
    model::StorePaths references;
  };

  std::map<model::StorePath, Entry> entries;
  state_.db.path_infos(account_, dead, [&](const model::PathInfo& info) {
    entries[info.path] = {info.nar_size, 0, info.references};
  });
  for (const auto& [path, entry] : entries) {
    for (const auto& reference : entry.references) {
      const auto found = entries.find(reference);
      if (reference != path && found != entries.end()) {
        ++found->second.referrers;
      }
    }
  }
  model::StorePaths ready;
  for (const auto& [path, entry] : entries) {
    if (entry.referrers == 0) {
      ready.push_back(path);
    }
  }
  model::StorePaths taken;
  std::uint64_t bytes = 0;
  while (!ready.empty() && bytes < enough) {
    taken.push_back(std::move(ready.back()));
    ready.pop_back();
    const auto& path = taken.back();
    const auto& entry = entries.at(path);
    bytes += entry.bytes;
    for (const auto& reference : entry.references) {
      const auto found = entries.find(reference);
      if (reference != path && found != entries.end() && --found->second.referrers == 0) {
        ready.push_back(reference);
      }
    }
  }
  std::sort(taken.begin(), taken.end());
  return taken;
}

model::StorePaths Collection::remove(const model::StorePaths& dead, bool all_or_nothing) {
  const std::lock_guard alone(state_.name_gate);
  const auto revived = live_among(dead, state_.touched_since());
  if (all_or_nothing && !revived.empty()) {
    throw_in_use(revived.front());
  }
  auto doomed = without(dead, revived);
  state_.db.remove_paths(account_, doomed);
  return doomed;
}

} // namespace

GcResult Store::collect_garbage(AccountId account, std::span<const model::StorePath> roots) {
  return collect(account, GcOrder{.roots = roots});
}

GcResult Store::collect(AccountId account, const GcOrder& order) {
  Collection collection(*state_, account, order.roots);
  auto dead = order.only ? collection.chosen(*order.only, order.with_referrers) : collection.dead();
  if (order.enough_bytes) {
    dead = collection.enough_of(dead, *order.enough_bytes);
  }
  GcResult result;
  result.removed = collection.remove(dead, order.only.has_value());
  result.paths_removed = result.removed.size();
  state_->segments.visit([&](const Hash& nar_hash) {
    result.bytes_freed += remove_segment_if_unused(*state_, nar_hash);
  });
  return result;
}

model::StorePaths Store::live_paths(AccountId account, std::span<const model::StorePath> roots) {
  return std::move(Collection(*state_, account, roots).live());
}

model::StorePaths Store::leased_paths(AccountId account) {
  const auto held = state_->held(account);
  auto paths = state_->db.all_paths(account);
  std::erase_if(paths, [&](const auto& path) { return !held.contains(key_of(path)); });
  return paths;
}

} // namespace nixbuild::store
