#include "state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::scheduler {

namespace {
/// Deeper than any real graph.
constexpr std::size_t kMostBehind = 100'000;
} // namespace

Scheduler::Scheduler(SchedulerSettings settings) : state_(std::make_unique<State>(settings)) {}

Scheduler::~Scheduler() = default;
Scheduler::Scheduler(Scheduler&&) noexcept = default;
Scheduler& Scheduler::operator=(Scheduler&&) noexcept = default;

void Scheduler::State::enter(MonotonicTime at) {
  now = std::max(now, at);
  wake_delayed();
}

void Scheduler::State::wake_delayed() {
  while (!delayed.empty() && delayed.begin()->first <= now) {
    auto& build = *builds.at(delayed.begin()->second);
    delayed.erase(delayed.begin());
    --counts.delayed;
    build.phase = BuildPhase::Dependencies;
    ++counts.blocked;
    make_ready(build);
  }
}

void Scheduler::State::add_build(BuildRequest& request) {
  auto slot = std::make_unique<Build>();
  auto& build = *slot;
  build.id = request.id;
  build.account = &account_of(request.account);
  build.share = &share_of(*build.account, request.platform);
  build.key = &key_of(*build.share, request.key);
  build.needs = &needs_of(request.platform, request.features);
  build.tags = std::move(request.tags);
  build.name = std::move(request.name);
  build.features = std::move(request.features);
  build.bounds = request.bounds;
  build.lane = request.lane;
  build.priority = request.priority;
  build.max_restarts = request.max_restarts;
  build.restarts = request.restarts;
  build.attempt = request.last_attempt;
  build.memory_floor = request.memory_floor;
  build.submitted = request.submitted.value_or(now);
  if (request.expected_duration) {
    build.expected = *request.expected_duration;
  } else {
    const auto prediction =
        history.predict(request.account, split_name(build.name), request.platform);
    build.expected =
        prediction && prediction->duration ? *prediction->duration : settings.assumed_duration;
  }
  build.expected =
      std::clamp(build.expected, Milliseconds{0}, Milliseconds{std::chrono::hours(24 * 30)});
  build.behind_ms = static_cast<std::int64_t>(std::min(request.builds_behind, kMostBehind)) *
                    settings.assumed_duration.count();
  build.critical_ms = build.behind_ms + build.expected.count();
  builds.emplace(build.id, std::move(slot));
  ++counts.blocked;
  counts.builds = builds.size();
}

void Scheduler::State::make_ready(Build& build) {
  if (auto objection = fit_size(build)) {
    // Nodes come and go: only what a caller is told at once is refused for lack of one.
    if (objection->code == "scheduler.quota" || objection->code == "scheduler.bounds" ||
        objection->code == "scheduler.feature-syntax") {
      end(build, Verdict::Refused, std::move(objection->code), std::move(objection->message));
      return;
    }
  }
  --counts.blocked;
  enqueue(build);
}

void Scheduler::State::adopt(Build& build, const RunningAttempt& running) {
  build.attempt = std::max<AttemptNumber>(1, build.attempt);
  build.size.cpus = running.cpus;
  build.size.memory_bytes = running.memory_bytes;
  build.size.needed_cpus = std::max(1U, build.bounds.min_cpus);
  build.size.needed_memory = build.bounds.min_memory;
  build.size.why = "adopted";
  build.started = std::min(running.started, now);
  --counts.blocked;
  build.phase = BuildPhase::Running;
  for (Build* dependency : build.dependencies) {
    std::erase(dependency->dependants, &build);
  }
  build.dependencies.clear();
  const auto slot = slot_of(running.node);
  charge_start(build);
  occupy(build, slot);
  update_room(slot);
  refresh(*build.account);
}

void Scheduler::State::start(Build& build, std::uint32_t node) {
  auto& share = *build.share;
  Build* const by_room = choose(share, false, true);
  const bool all_allowed = std::all_of(share.classes.begin(),
                                       share.classes.end(),
                                       [](const auto& of) { return of.second->eligible; });
  const Build* const by_quota = all_allowed ? by_room : choose(share, false, false);
  count_turns(build, by_room, node);
  if (by_quota == &build) {
    share.quota_overtaken = 0;
  } else if (by_quota != by_room) {
    ++share.quota_overtaken;
  }
  dequeue(build);
  build.phase = BuildPhase::Running;
  ++build.attempt;
  build.started = now;
  charge_start(build);
  occupy(build, node);
  decisions.emplace_back(Started{build.id,
                                 build.attempt,
                                 nodes[node].spec.name,
                                 build.size.cpus,
                                 build.size.memory_bytes,
                                 build.size.why});
  auto& account = *build.account;
  refresh(account);
  if (share.quota_overtaken >= settings.overtakes && account.held_for == nullptr) {
    share.quota_overtaken = 0;
    account.held_for = choose(share, false, false);
    refresh(account);
  }
  // Whose turn was it? In every pool, since pools may share nodes.
  for (auto& [name, pool] : pools) {
    if (pool->order.empty()) {
      continue;
    }
    auto& front = *pool->order.begin()->owner;
    if (&front == &share) {
      continue; // counted above
    }
    Build* const first = choose(front, false, true);
    if (first == nullptr) {
      continue;
    }
    const auto& spec = nodes[node].spec;
    if (first->needs->offered[rooms[node].kind] != 0 && first->size.cpus <= spec.cpus &&
        first->size.memory_bytes <= spec.memory_bytes && !first->size_class->open) {
      ++front.overtaken;
    }
    if (front.overtaken >= settings.overtakes && !first->size_class->open) {
      reserve_for(front, *first);
    }
  }
  if (share.active && share.reserved == nullptr && share.overtaken >= settings.overtakes) {
    Build* const first = choose(share, false, true);
    if (first != nullptr && !first->size_class->open) {
      reserve_for(share, *first);
    }
  }
}

bool Scheduler::State::dispatch_one(Pool& pool) {
  for (;;) {
    const ByPass* best = nullptr;
    for (const SizeClass* size : pool.lists[1]) {
      if (!size->shares.empty() && (best == nullptr || *size->shares.begin() < *best)) {
        best = &*size->shares.begin();
      }
    }
    if (best == nullptr) {
      return false;
    }
    Build* const build = choose(*best->owner, true, true);
    auto& size = *build->size_class;
    const auto node = best_node(size, build->avoid);
    if (node == kNoNode) {
      pool.set_open(size, false);
      size.hint = kNoNode;
      continue;
    }
    start(*build, node);
    return true;
  }
}

void Scheduler::State::dispatch() {
  if (draining) {
    return;
  }
  for (bool started = true; started;) {
    started = false;
    ++turn;
    std::size_t place = 0;
    // Pools that share nodes take turns.
    for (int half = 0; half < 2; ++half) {
      place = 0;
      for (auto& [name, pool] : pools) {
        const bool later = place++ >= turn % pools.size();
        if (later == (half == 0)) {
          started = dispatch_one(*pool) || started;
        }
      }
    }
  }
}

void Scheduler::submit(std::vector<BuildRequest> list, MonotonicTime now) {
  auto& state = *state_;
  std::set<BuildId> fresh;
  for (const auto& request : list) {
    if (state.builds.contains(request.id) || !fresh.insert(request.id).second) {
      throw Error(Reaction::Reject,
                  "scheduler.duplicate-build",
                  fmt::format("build {} is known already", request.id));
    }
  }
  if (state.builds.size() + list.size() > state.settings.max_builds) {
    throw Error(Reaction::Busy,
                "scheduler.full",
                fmt::format("{} builds are waiting or running, the limit is {}",
                            state.builds.size(),
                            state.settings.max_builds));
  }
  const auto order = State::dependants_first(list);
  state.enter(now);
  for (auto& request : list) {
    state.add_build(request);
  }
  std::set<Build*> older;
  for (const auto& request : list) {
    auto& build = *state.builds.at(request.id);
    state.connect(build, request.dependencies);
    for (Build* dependency : build.dependencies) {
      if (!fresh.contains(dependency->id)) {
        older.insert(dependency);
      }
    }
  }
  for (const auto place : order) {
    auto& build = *state.builds.at(list[place].id);
    for (const Build* dependant : build.dependants) {
      build.critical_ms =
          std::max(build.critical_ms, build.expected.count() + dependant->critical_ms);
    }
  }
  state.refresh_critical_paths({older.begin(), older.end()});
  for (const auto& request : list) {
    if (request.running) {
      state.adopt(*state.builds.at(request.id), *request.running);
    }
  }
  for (const auto& request : list) {
    const auto found = state.builds.find(request.id);
    if (found == state.builds.end() || found->second->phase != BuildPhase::Dependencies) {
      continue; // adopted, or ended with a dependency
    }
    auto& build = *found->second;
    auto objection = state.fit_size(build);
    const bool node_may_come =
        objection && state.settings.wait_for_nodes &&
        (objection->code == "scheduler.platform" || objection->code == "scheduler.features" ||
         objection->code == "scheduler.too-big");
    if (objection && !node_may_come) {
      state.end(build, Verdict::Refused, std::move(objection->code), std::move(objection->message));
    } else if (build.dependencies.empty()) {
      --state.counts.blocked;
      state.enqueue(build);
    }
  }
  state.dispatch();
}

void Scheduler::reprioritise(BuildId id, Lane lane, int priority, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto found = state.builds.find(id);
  if (found == state.builds.end() || found->second->holds_capacity()) {
    return;
  }
  auto& build = *found->second;
  const bool queued = build.phase == BuildPhase::Queued;
  if (queued) {
    state.dequeue(build);
  }
  build.lane = lane;
  build.priority = priority;
  if (queued) {
    state.enqueue(build);
  }
  state.dispatch();
}

void Scheduler::set_account(const AccountPolicy& policy, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  auto& account = state.account_of(policy.account);
  account.weight = std::clamp(policy.weight, 0.001, 1000.0);
  account.quota = policy.quota;
  const std::set<const Account*> changed{&account};
  state.resize_queued(&changed);
  state.refresh(account);
  state.dispatch();
}

void Scheduler::set_key_weight(const std::string& account,
                               const std::string& key,
                               double weight,
                               MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  auto& owner = state.account_of(account);
  const double kept = std::clamp(weight, 0.001, 1000.0);
  owner.key_weights[key] = kept;
  for (auto& [name, share] : owner.shares) {
    if (const auto found = share->keys.find(key); found != share->keys.end()) {
      found->second->weight = kept;
    }
  }
}

void Scheduler::set_cpu_time_used(const std::string& account, CpuTime used, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  auto& owner = state.account_of(account);
  owner.usage.cpu_time = used;
  state.refresh(owner);
  state.dispatch();
}

void Scheduler::drain(MonotonicTime now) {
  state_->enter(now);
  state_->draining = true;
}

void Scheduler::resume(MonotonicTime now) {
  state_->enter(now);
  state_->draining = false;
  for (std::uint32_t i = 0; i < state_->nodes.size(); ++i) {
    state_->room_on(i);
  }
  state_->dispatch();
}

void Scheduler::advance(MonotonicTime now) {
  state_->enter(now);
  state_->dispatch();
}

std::optional<MonotonicTime> Scheduler::next_deadline() const {
  if (state_->delayed.empty()) {
    return std::nullopt;
  }
  return state_->delayed.begin()->first;
}

std::vector<Decision> Scheduler::take_decisions() {
  return std::exchange(state_->decisions, {});
}

SchedulerCounts Scheduler::counts() const noexcept {
  return state_->counts;
}

AccountUsage Scheduler::usage(const std::string& account) const {
  const auto found = state_->accounts.find(account);
  return found == state_->accounts.end() ? AccountUsage{} : found->second->usage;
}

bool Scheduler::idle() const noexcept {
  return state_->counts.running == 0;
}

void Scheduler::learn(const BuildRecord& record) {
  state_->history.add(record);
}

} // namespace nixbuild::scheduler
