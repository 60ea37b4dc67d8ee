#include "derivation_options.hpp"

#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/build/lease_desk.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>

namespace nixbuild::build {

namespace {
/// How often a waiting build looks whether it is still wanted.
constexpr std::chrono::milliseconds kLookUp{500};
} // namespace

/// What the scheduler has said to one build.
struct Waiting {
  std::optional<scheduler::Started> started;
  std::optional<scheduler::Ended> ended;
  aio::Event changed;
  scheduler::BuildRequest request;
  bool granted = false;
  bool beyond = false; ///< beside what there is
};

struct LeaseDeskState {
  LeaseDeskState(scheduler::SchedulerSettings settings, const Clock& c, LeaseDesk::Learn l)
      : clock(c), learn(std::move(l)), queue(settings) {}

  const Clock& clock;
  LeaseDesk::Learn learn;
  mutable std::mutex mutex;
  bool refuses = false;
  scheduler::Scheduler queue;
  std::map<scheduler::BuildId, std::shared_ptr<Waiting>> waiting;

  /// Has the scheduler told of something, and hands on what it decides.
  template <class Event>
  void drive(Event event) {
    std::vector<scheduler::Decision> decisions;
    {
      const std::lock_guard lock(mutex);
      event(queue, clock.monotonic());
      decisions = queue.take_decisions();
      for (const auto& decision : decisions) {
        hand_on(decision);
      }
    }
    for (const auto& decision : decisions) {
      if (const auto* learned = std::get_if<scheduler::Learned>(&decision); learned && learn) {
        learn(learned->record);
      }
    }
  }

  void hand_on(const scheduler::Decision& decision) {
    const auto id = std::visit([](const auto& what) { return what.id; }, decision);
    const auto found = waiting.find(id);
    if (found == waiting.end()) {
      return;
    }
    if (const auto* started = std::get_if<scheduler::Started>(&decision)) {
      found->second->started = *started;
      found->second->changed.notify();
    } else if (const auto* ended = std::get_if<scheduler::Ended>(&decision)) {
      found->second->ended = *ended;
      found->second->changed.notify();
    }
  }

  std::shared_ptr<Waiting> place_of(scheduler::BuildId id) const {
    const std::lock_guard lock(mutex);
    const auto found = waiting.find(id);
    return found == waiting.end() ? nullptr : found->second;
  }

  void enter(scheduler::BuildRequest request) {
    const auto id = request.id;
    {
      const std::lock_guard lock(mutex);
      const auto place = std::make_shared<Waiting>();
      place->request = request;
      place->granted = request.running.has_value();
      waiting.insert_or_assign(id, place);
    }
    try {
      drive([&](scheduler::Scheduler& scheduler, MonotonicTime now) {
        scheduler.submit({std::move(request)}, now);
      });
    } catch (...) {
      leave(id);
      throw;
    }
  }

  void leave(scheduler::BuildId id) {
    const std::lock_guard lock(mutex);
    waiting.erase(id);
  }

  /// The next start, when there has been one. Throws the build's end.
  std::optional<scheduler::Started> take_start(Waiting& place) {
    const std::lock_guard lock(mutex);
    if (place.started) {
      place.granted = true;
      return std::exchange(place.started, std::nullopt);
    }
    if (place.ended) {
      throw Error(Reaction::Unsupported, place.ended->code, place.ended->message);
    }
    return std::nullopt;
  }
};

/// Whether one more build may run beside what there is.
bool may_go_beyond(const LeaseDeskState& state) {
  const std::lock_guard lock(state.mutex);
  std::size_t holders = 0;
  std::size_t beyond = 0;
  for (const auto& [id, place] : state.waiting) {
    holders += place->granted && place->request.features.contains(kRecursiveNix) ? 1U : 0U;
    beyond += place->beyond ? 1U : 0U;
  }
  return beyond < holders;
}

void ComputeLease::give_back() noexcept {
  if (!desk_) {
    return;
  }
  try {
    const auto id = id_;
    const auto attempt = attempt_;
    desk_->drive([id, attempt](scheduler::Scheduler& scheduler, MonotonicTime now) {
      scheduler.cancel(id, now);
      scheduler.finish(id, attempt, scheduler::Outcome::Cancelled, {}, now);
    });
    desk_->leave(id_);
  } catch (...) {
    // Out of memory: the capacity stays taken, which a restart of the daemon mends.
  }
  desk_.reset();
}

ComputeLease::~ComputeLease() {
  give_back();
}

ComputeLease::ComputeLease(ComputeLease&& other) noexcept
    : desk_(std::move(other.desk_)), id_(other.id_), attempt_(std::exchange(other.attempt_, 0)),
      node_(std::move(other.node_)), cpus_(other.cpus_), memory_bytes_(other.memory_bytes_),
      why_size_(std::move(other.why_size_)) {}

ComputeLease& ComputeLease::operator=(ComputeLease&& other) noexcept {
  if (this != &other) {
    give_back();
    desk_ = std::move(other.desk_);
    id_ = other.id_;
    attempt_ = std::exchange(other.attempt_, 0);
    node_ = std::move(other.node_);
    cpus_ = other.cpus_;
    memory_bytes_ = other.memory_bytes_;
    why_size_ = std::move(other.why_size_);
  }
  return *this;
}

bool ComputeLease::finish(scheduler::Outcome outcome, const scheduler::Measurements& measured) {
  if (!desk_ || attempt_ == 0) {
    return false;
  }
  const auto place = desk_->place_of(id_);
  desk_->drive([&](scheduler::Scheduler& scheduler, MonotonicTime now) {
    scheduler.finish(id_, std::exchange(attempt_, 0), outcome, measured, now);
  });
  bool over = true;
  if (place) {
    const std::lock_guard lock(desk_->mutex);
    over = place->ended.has_value();
  }
  if (over) {
    desk_->leave(id_);
    desk_.reset();
  }
  return !over;
}

LeaseDesk::LeaseDesk(scheduler::SchedulerSettings settings,
                     const std::vector<scheduler::NodeSpec>& nodes,
                     const Clock& clock,
                     Learn learn)
    : state_(std::make_shared<LeaseDeskState>(settings, clock, std::move(learn))) {
  for (const auto& node : nodes) {
    state_->queue.set_node(node, clock.monotonic());
  }
}

LeaseDesk::~LeaseDesk() = default;

aio::Task<ComputeLease> LeaseDesk::acquire(scheduler::BuildRequest request,
                                           std::function<bool()> give_up,
                                           std::function<bool()> insist) {
  ComputeLease lease;
  lease.id_ = request.id;
  state_->enter(std::move(request));
  lease.desk_ = state_;
  co_await again(lease, std::move(give_up), std::move(insist));
  co_return lease;
}

/// Takes the build out of the queue and has it run like one that has been running.
void LeaseDesk::take_over(ComputeLease& lease) {
  const auto place = state_->place_of(lease.id_);
  auto request = place->request;
  lease.give_back();
  const auto& bounds = request.bounds;
  scheduler::RunningAttempt running;
  running.node = nodes().front().spec.name;
  running.cpus = bounds.default_cpus;
  running.memory_bytes = std::clamp(
      bounds.default_memory_per_cpu * bounds.default_cpus, bounds.min_memory, bounds.max_memory);
  running.started = state_->clock.monotonic();
  request.running = running;
  ++request.last_attempt;
  lease = adopt(std::move(request));
  {
    const std::lock_guard lock(state_->mutex);
    state_->waiting.at(lease.id_)->beyond = true;
  }
  lease.why_size_ = "beside all others: a builder waits for it";
}

aio::Task<void>
LeaseDesk::again(ComputeLease& lease, std::function<bool()> give_up, std::function<bool()> insist) {
  auto state = state_;
  const auto place = state->place_of(lease.id_);
  for (;;) {
    const auto seen = place->changed.count();
    if (auto started = state->take_start(*place)) {
      lease.attempt_ = started->attempt;
      lease.node_ = std::move(started->node);
      lease.cpus_ = started->cpus;
      lease.memory_bytes_ = started->memory_bytes;
      lease.why_size_ = std::move(started->why_size);
      co_return;
    }
    if (give_up()) {
      throw Error(
          Reaction::Cancelled, "build.cancelled", "the build was cancelled while it waited");
    }
    const bool told = co_await place->changed.wait(seen, kLookUp);
    if (!told && insist && insist() && may_go_beyond(*state) && !nodes().empty()) {
      take_over(lease);
      co_return;
    }
    if (!told) {
      // Delayed restarts begin by themselves.
      state->drive([](scheduler::Scheduler& scheduler, MonotonicTime now) {
        if (const auto due = scheduler.next_deadline(); due && *due <= now) {
          scheduler.advance(now);
        }
      });
    }
  }
}

ComputeLease LeaseDesk::adopt(scheduler::BuildRequest request) {
  ComputeLease lease;
  lease.id_ = request.id;
  lease.attempt_ = request.last_attempt;
  lease.node_ = request.running->node;
  lease.cpus_ = request.running->cpus;
  lease.memory_bytes_ = request.running->memory_bytes;
  lease.why_size_ = "as it was";
  state_->enter(std::move(request));
  lease.desk_ = state_;
  return lease;
}

void LeaseDesk::set_account(const scheduler::AccountPolicy& policy) {
  state_->drive([&](scheduler::Scheduler& scheduler, MonotonicTime now) {
    scheduler.set_account(policy, now);
  });
}

void LeaseDesk::set_key_weight(const std::string& account, const std::string& key, double weight) {
  state_->drive([&](scheduler::Scheduler& scheduler, MonotonicTime now) {
    scheduler.set_key_weight(account, key, weight, now);
  });
}

void LeaseDesk::set_cpu_time_used(const std::string& account, scheduler::CpuTime used) {
  state_->drive([&](scheduler::Scheduler& scheduler, MonotonicTime now) {
    scheduler.set_cpu_time_used(account, used, now);
  });
}

void LeaseDesk::set_health(const std::string& node, const scheduler::NodeHealth& health) {
  state_->drive([&](scheduler::Scheduler& scheduler, MonotonicTime now) {
    scheduler.set_health(node, health, now);
  });
}

void LeaseDesk::drain(bool refuse) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->refuses = refuse;
  }
  state_->drive([](scheduler::Scheduler& scheduler, MonotonicTime now) { scheduler.drain(now); });
}

bool LeaseDesk::refuses() const {
  const std::lock_guard lock(state_->mutex);
  return state_->refuses;
}

void LeaseDesk::resume() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->refuses = false;
  }
  state_->drive([](scheduler::Scheduler& scheduler, MonotonicTime now) { scheduler.resume(now); });
}

void LeaseDesk::learn(const std::vector<scheduler::BuildRecord>& records) {
  const std::lock_guard lock(state_->mutex);
  for (const auto& record : records) {
    state_->queue.learn(record);
  }
}

std::optional<scheduler::Explanation> LeaseDesk::explain(scheduler::BuildId id) const {
  const std::lock_guard lock(state_->mutex);
  return state_->queue.explain(id, state_->clock.monotonic());
}

scheduler::SchedulerCounts LeaseDesk::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->queue.counts();
}

std::vector<scheduler::NodeState> LeaseDesk::nodes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->queue.nodes();
}

MonotonicTime LeaseDesk::now() const {
  return state_->clock.monotonic();
}

} // namespace nixbuild::build
