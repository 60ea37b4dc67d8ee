#include "state.hpp"

#include <algorithm>

namespace nixbuild::scheduler {

namespace {

constexpr std::size_t index_of(Lane lane) {
  return lane == Lane::Interactive ? 0 : 1;
}

bool may_start(const ShareClass& of, bool fitting, bool quota) {
  return (!fitting || of.size->open) && (!quota || of.eligible);
}

bool has_start(const KeyLane& lane, bool fitting, bool quota) {
  return std::any_of(lane.classes.begin(), lane.classes.end(), [&](const auto& entry) {
    return may_start(*entry.second.of, fitting, quota);
  });
}

Build* first_of(const KeyLane& lane, bool oldest, bool fitting, bool quota) {
  Build* best = nullptr;
  for (const auto& [serial, queue] : lane.classes) {
    if (!may_start(*queue.of, fitting, quota)) {
      continue;
    }
    Build* const head = oldest ? queue.by_age.begin()->second : queue.by_rank.begin()->second;
    if (best == nullptr || (oldest ? head->age() < best->age() : head->rank() < best->rank())) {
      best = head;
    }
  }
  return best;
}

} // namespace

Share& Scheduler::State::share_of(Account& account, std::string_view platform) {
  const std::string name(pool_of(platform));
  auto& slot = account.shares[name];
  if (!slot) {
    auto& pool = pools[name];
    if (!pool) {
      pool = std::make_unique<Pool>();
      pool->name = name;
    }
    slot = std::make_unique<Share>();
    slot->serial = ++share_serial;
    slot->account = &account;
    slot->pool = pool.get();
  }
  return *slot;
}

Key& Scheduler::State::key_of(Share& share, const std::string& name) {
  auto& slot = share.keys[name];
  if (!slot) {
    slot = std::make_unique<Key>();
    slot->name = name;
    const auto weight = share.account->key_weights.find(name);
    slot->weight = weight == share.account->key_weights.end() ? 1.0 : weight->second;
  }
  return *slot;
}

void Scheduler::State::enqueue(Build& build) {
  auto& share = *build.share;
  auto& size = class_of(*share.pool, *build.needs, build.size.cpus, build.size.memory_bytes);
  auto& of = share.classes[size.serial];
  if (!of) {
    of = std::make_unique<ShareClass>();
    of->size = &size;
  }
  ++of->builds;
  ++size.builds;
  const auto lane = index_of(build.lane);
  auto& key = *build.key;
  if (key.lanes[lane].classes.empty()) {
    share.waiting_keys[lane].push_back(&key);
    if (key.lanes[1 - lane].classes.empty()) {
      key.pass = std::max(key.pass, share.key_time);
    }
  }
  auto& queue = key.lanes[lane].classes[size.serial];
  queue.of = of.get();
  queue.by_rank.emplace(build.rank(), &build);
  queue.by_age.emplace(build.age(), &build);
  build.size_class = &size;
  build.phase = BuildPhase::Queued;
  ++counts.queued;
  ++share.account->usage.queued;
  if (of->builds == 1) {
    refresh(share);
  }
}

void Scheduler::State::dequeue(Build& build) {
  auto& share = *build.share;
  auto& size = *build.size_class;
  const auto lane = index_of(build.lane);
  auto& key = *build.key;
  auto& classes = key.lanes[lane].classes;
  const auto queue = classes.find(size.serial);
  queue->second.by_rank.erase(build.rank());
  queue->second.by_age.erase(build.age());
  if (queue->second.by_rank.empty()) {
    classes.erase(queue);
    if (classes.empty()) {
      std::erase(share.waiting_keys[lane], &key);
      key.lanes[lane].since_oldest = 0;
    }
  }
  if (share.waiting_keys[1].empty()) {
    share.interactive_streak = 0;
  }
  build.size_class = nullptr;
  --counts.queued;
  --share.account->usage.queued;
  if (share.reserved == &build) {
    release_reservation(share);
  }
  if (share.account->held_for == &build) {
    release_hold(*share.account);
  }
  const auto of = share.classes.find(size.serial);
  if (--of->second->builds == 0) {
    if (of->second->eligible) {
      size.shares.erase(ByPass{share.pass, share.serial, &share});
    }
    share.classes.erase(of);
    refresh(share);
  }
  if (--size.builds == 0) {
    drop_class(*share.pool, size);
  }
}

const Key*
Scheduler::State::choose_key(const Share& share, Lane lane, bool fitting, bool quota) const {
  const Key* best = nullptr;
  for (const Key* key : share.waiting_keys[index_of(lane)]) {
    if ((best == nullptr || key->pass < best->pass ||
         (key->pass == best->pass && key->name < best->name)) &&
        has_start(key->lanes[index_of(lane)], fitting, quota)) {
      best = key;
    }
  }
  return best;
}

Build* Scheduler::State::choose(const Share& share, bool fitting, bool quota) const {
  const bool batch_turn = share.interactive_streak >= settings.interactive_turns;
  const Lane lanes[] = {batch_turn ? Lane::Batch : Lane::Interactive,
                        batch_turn ? Lane::Interactive : Lane::Batch};
  for (const Lane lane : lanes) {
    if (const Key* key = choose_key(share, lane, fitting, quota)) {
      const auto& queue = key->lanes[index_of(lane)];
      return first_of(queue, queue.since_oldest + 1 >= settings.oldest_turn, fitting, quota);
    }
  }
  return nullptr;
}

void Scheduler::State::set_pass(Share& share, double pass) {
  if (pass == share.pass) {
    return;
  }
  const ByPass old{share.pass, share.serial, &share};
  const ByPass fresh{pass, share.serial, &share};
  for (auto& [serial, of] : share.classes) {
    if (of->eligible) {
      of->size->shares.erase(old);
      of->size->shares.insert(fresh);
    }
  }
  if (share.active && share.reserved == nullptr) {
    share.pool->order.erase(old);
    share.pool->order.insert(fresh);
  }
  share.pass = pass;
}

double Scheduler::State::charge_of(const Build& build, Milliseconds duration) const {
  const double slots =
      std::max(static_cast<double>(build.size.cpus),
               static_cast<double>(build.size.memory_bytes) /
                   static_cast<double>(std::max<std::uint64_t>(1, settings.memory_per_slot)));
  const auto within = std::max(settings.min_charge, std::min(duration, settings.max_charge));
  return slots * std::chrono::duration<double>(within).count();
}

void Scheduler::State::charge_start(Build& build) {
  auto& share = *build.share;
  auto& pool = *share.pool;
  auto& key = *build.key;
  build.charged = charge_of(build, build.expected);
  const double weight = share.account->weight;
  const double from = std::max(share.pass, pool.virtual_time - settings.credit / weight);
  pool.virtual_time = std::max(pool.virtual_time, from);
  set_pass(share, from + build.charged / weight);
  const double key_from = std::max(key.pass, share.key_time - settings.credit / key.weight);
  share.key_time = std::max(share.key_time, key_from);
  key.pass = key_from + build.charged / key.weight;
}

void Scheduler::State::correct_charge(Build& build) {
  const auto ran = std::chrono::duration_cast<Milliseconds>(now - build.started);
  const double change = charge_of(build, ran) - build.charged;
  auto corrected = [&](double pass, double time, double weight) {
    const double moved = pass + change / weight;
    if (change < 0) {
      return std::min(pass, std::max(moved, time - settings.credit / weight));
    }
    return std::max(pass, std::min(moved, time + settings.debt_limit / weight));
  };
  auto& share = *build.share;
  set_pass(share, corrected(share.pass, share.pool->virtual_time, share.account->weight));
  build.key->pass = corrected(build.key->pass, share.key_time, build.key->weight);
}

void Scheduler::State::count_turns(Build& build, const Build* first, std::uint32_t node) {
  auto& share = *build.share;
  const auto& spec = nodes[node].spec;
  auto could_take = [&](const Build& other) {
    return other.needs->offered[rooms[node].kind] != 0 && other.size.cpus <= spec.cpus &&
           other.size.memory_bytes <= spec.memory_bytes;
  };
  auto& lane = build.key->lanes[index_of(build.lane)];
  bool was_oldest = true;
  for (const auto& [serial, queue] : lane.classes) {
    was_oldest = was_oldest && !(queue.by_age.begin()->second->age() < build.age());
  }
  lane.since_oldest = was_oldest ? 0 : lane.since_oldest + 1;
  share.interactive_streak = build.lane == Lane::Interactive && !share.waiting_keys[1].empty()
                                 ? share.interactive_streak + 1
                                 : 0;
  if (first == &build || first == nullptr) {
    share.overtaken = 0;
  } else if (could_take(*first) && share.reserved == nullptr) {
    ++share.overtaken;
  }
}

} // namespace nixbuild::scheduler
