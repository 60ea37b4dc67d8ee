#include "simulation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

namespace nixbuild::scheduler::simulated {

namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

struct World {
  explicit World(const Shape& given) : shape(given), random(given.seed) {}

  struct Run {
    BuildId id = 0;
    AttemptNumber attempt = 0;
    std::string node;
    unsigned cpus = 0;
    std::uint64_t memory = 0;
    MonotonicTime started;
    Outcome outcome = Outcome::Succeeded;
  };

  struct Stored {
    BuildRequest request;
    milliseconds duration{0};
    std::uint64_t needs_memory = 0;
    bool over = false;
  };

  struct Event {
    MonotonicTime at;
    std::uint64_t order = 0;
    int kind = 0; ///< 0 end of run, 1 submit, 2 trouble, 3 node returns
    BuildId id = 0;
    AttemptNumber attempt = 0;
    std::string node;

    bool operator>(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  Shape shape;
  std::mt19937_64 random;
  Scheduler scheduler;
  MonotonicTime now{std::chrono::hours(1)};
  std::map<BuildId, Stored> database;
  std::map<BuildId, Run> running;
  std::map<std::string, NodeSpec> present;
  std::map<std::string, NodeSpec> all_nodes;
  std::map<std::string, AccountPolicy> policies;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events;
  std::vector<std::vector<BuildId>> batches;
  std::uint64_t order = 0;
  Report report;

  std::uint64_t roll(std::uint64_t below) { return random() % below; }

  void later(milliseconds after, Event event) {
    event.at = now + after;
    event.order = ++order;
    events.push(std::move(event));
  }

  void broken(std::string what) {
    if (report.broken.empty()) {
      report.broken = fmt::format("seed {}: {}", shape.seed, what);
    }
  }

  void set_up();
  void make_graphs();
  void take_decisions();
  void handle(const Event& event);
  void trouble();
  void restart_scheduler();
  void check();
  void bounds();
};

// Like nixpkgs: most builds are small and end in seconds, few take long; a few hubs (the compiler)
// are needed by nearly all; chains are deep; each build needs a handful of near predecessors.
void World::make_graphs() {
  BuildId next = 1;
  const std::size_t batch_size = std::max<std::size_t>(5, shape.builds / (2 * shape.accounts));
  while (database.size() < shape.builds) {
    batches.emplace_back();
    auto& batch = batches.back();
    const auto account = fmt::format("a{}", roll(shape.accounts));
    const auto key = fmt::format("k{}", roll(2));
    const auto lane = roll(3) == 0 ? Lane::Interactive : Lane::Batch;
    for (std::size_t i = 0; i < batch_size && database.size() < shape.builds; ++i) {
      Stored stored;
      auto& request = stored.request;
      request.id = next++;
      request.account = account;
      request.key = key;
      request.lane = lane;
      request.name = fmt::format("p{}-{}", roll(200), roll(3));
      request.platform = roll(12) == 0 ? "i686-linux" : "x86_64-linux";
      request.priority = static_cast<int>(roll(3));
      request.bounds.max_cpus = 8;
      request.bounds.max_memory = 16 * kGiB;
      if (roll(25) == 0) {
        request.features.insert("big-parallel");
      }
      if (roll(25) == 0) {
        request.features.insert(fmt::format("mem:{}", 4 + roll(12)));
      }
      std::set<BuildId> needed;
      if (!batch.empty()) {
        for (auto n = roll(4); n > 0; --n) {
          const auto back = std::min<std::size_t>(batch.size(), 1 + roll(30));
          needed.insert(batch[batch.size() - back]);
        }
        if (i > 3) {
          needed.insert(batch[roll(3)]);
        }
      }
      request.dependencies.assign(needed.begin(), needed.end());
      const double seconds = std::exp(std::normal_distribution<double>(2.5, 1.2)(random));
      stored.duration = milliseconds(static_cast<std::int64_t>(1000 * std::min(seconds, 3000.0)));
      if (roll(2) == 0) {
        request.expected_duration = stored.duration;
      }
      stored.needs_memory = roll(15) == 0 ? 10 * kGiB : kGiB / 2 + roll(kGiB);
      batch.push_back(request.id);
      database.emplace(request.id, std::move(stored));
    }
    Event event;
    event.kind = 1;
    event.id = batches.size() - 1;
    later(milliseconds(roll(120'000)), event);
  }
}

void World::set_up() {
  for (std::size_t i = 0; i < shape.nodes; ++i) {
    NodeSpec spec;
    spec.name = fmt::format("n{}", i);
    spec.cpus = static_cast<unsigned>(i == 0 ? 16 : 4 + 4 * roll(4));
    spec.memory_bytes = (i == 0 ? 64 : spec.cpus * 4) * kGiB;
    spec.platforms = {"i686-linux", "x86_64-linux"};
    spec.features = {"benchmark", "big-parallel"};
    all_nodes.emplace(spec.name, spec);
    present.emplace(spec.name, spec);
    scheduler.set_node(spec, now);
  }
  for (std::size_t i = 0; i < shape.accounts; ++i) {
    AccountPolicy policy;
    policy.account = fmt::format("a{}", i);
    policy.weight = static_cast<double>(1 + roll(3));
    if (shape.faults && roll(2) == 0) {
      policy.quota.running = static_cast<unsigned>(1 + roll(6));
      policy.quota.cpus = static_cast<unsigned>(4 + roll(16));
    }
    policies.emplace(policy.account, policy);
    scheduler.set_account(policy, now);
  }
  make_graphs();
  if (shape.faults) {
    Event event;
    event.kind = 2;
    later(milliseconds(roll(20'000)), event);
  }
}

void World::take_decisions() {
  for (auto& decision : scheduler.take_decisions()) {
    if (const auto* started = std::get_if<Started>(&decision)) {
      ++report.starts;
      auto& stored = database.at(started->id);
      if (stored.over || running.contains(started->id)) {
        broken(fmt::format("build {} was started twice at once or after its end", started->id));
      }
      if (started->attempt != stored.request.last_attempt + 1) {
        broken(fmt::format("build {} skipped an attempt number", started->id));
      }
      for (const auto id : stored.request.dependencies) {
        if (!database.at(id).over) {
          broken(fmt::format("build {} was started before its dependency {}", started->id, id));
        }
      }
      stored.request.last_attempt = started->attempt;
      Run run{started->id,
              started->attempt,
              started->node,
              started->cpus,
              started->memory_bytes,
              now,
              Outcome::Succeeded};
      auto ends = stored.duration;
      if (stored.needs_memory > started->memory_bytes) {
        run.outcome = Outcome::OutOfMemory;
        ends = ends / 2;
      } else if (shape.faults && roll(20) == 0) {
        run.outcome = Outcome::Lost;
        ends = ends / 3;
      } else if (shape.faults && roll(40) == 0) {
        run.outcome = roll(2) == 0 ? Outcome::BuilderFailed : Outcome::TimedOut;
      }
      running.emplace(started->id, run);
      Event event;
      event.id = started->id;
      event.attempt = started->attempt;
      later(std::max(ends, milliseconds(1)), event);
    } else if (const auto* stop = std::get_if<Stop>(&decision)) {
      running.at(stop->id).outcome = Outcome::Cancelled;
      Event event;
      event.id = stop->id;
      event.attempt = stop->attempt;
      later(milliseconds(50), event);
    } else if (const auto* again = std::get_if<Restarted>(&decision)) {
      auto& request = database.at(again->id).request;
      request.restarts = again->restarts;
      request.memory_floor = again->memory_bytes;
      running.erase(again->id);
    } else if (const auto* ended = std::get_if<Ended>(&decision)) {
      auto& stored = database.at(ended->id);
      if (stored.over) {
        broken(fmt::format("build {} ended twice", ended->id));
      }
      stored.over = true;
      running.erase(ended->id);
      ++report.ended;
      ++report.verdicts[ended->verdict];
    }
  }
}

void World::restart_scheduler() {
  ++report.restarts_of_scheduler;
  scheduler = Scheduler();
  for (const auto& [name, spec] : present) {
    scheduler.set_node(spec, now);
  }
  for (const auto& [name, policy] : policies) {
    scheduler.set_account(policy, now);
  }
  std::vector<BuildRequest> unfinished;
  for (const auto& [id, stored] : database) {
    if (stored.over || !stored.request.submitted) {
      continue;
    }
    unfinished.push_back(stored.request);
    if (const auto run = running.find(id); run != running.end()) {
      RunningAttempt attempt;
      attempt.node = run->second.node;
      attempt.cpus = run->second.cpus;
      attempt.memory_bytes = run->second.memory;
      attempt.started = run->second.started;
      unfinished.back().running = attempt;
    }
  }
  scheduler.submit(std::move(unfinished), now);
}

void World::trouble() {
  const auto asked = 1 + roll(database.size());
  const auto why = scheduler.explain(asked, now);
  const auto& stored = database.at(asked);
  if (why.has_value() != (stored.request.submitted && !stored.over)) {
    broken(fmt::format("build {} is known to one side only", asked));
  } else if (why && (why->detail.empty() || why->node.empty() == running.contains(asked))) {
    broken(fmt::format("build {} is explained wrongly: {}", asked, why->detail));
  }
  const auto what = roll(6);
  if (what == 0 && present.size() > 1) {
    auto victim = present.begin();
    std::advance(victim, static_cast<std::ptrdiff_t>(roll(present.size())));
    const auto name = victim->first;
    present.erase(victim);
    std::erase_if(running, [&](const auto& entry) { return entry.second.node == name; });
    scheduler.lose_node(name, now);
    Event event;
    event.kind = 3;
    event.node = name;
    later(milliseconds(60'000), event);
  } else if (what == 1) {
    scheduler.cancel(1 + roll(database.size()), now);
  } else if (what == 2 && roll(3) == 0) {
    restart_scheduler();
  } else if (what == 3) {
    scheduler.finish(1 + roll(database.size()), 77, Outcome::Succeeded, {}, now);
  } else if (what == 4) {
    NodeHealth health;
    health.memory_full = static_cast<double>(roll(10));
    scheduler.set_health(present.begin()->first, health, now);
  } else {
    scheduler.reprioritise(1 + roll(database.size()), Lane::Interactive, 5, now);
  }
  if (report.ended < database.size()) {
    Event event;
    event.kind = 2;
    later(milliseconds(1000 + roll(30'000)), event);
  }
}

void World::handle(const Event& event) {
  if (event.kind == 0) {
    const auto run = running.find(event.id);
    const bool current = run != running.end() && run->second.attempt == event.attempt;
    const auto outcome = current ? run->second.outcome : Outcome::Succeeded;
    Measurements measured;
    if (current && outcome == Outcome::Succeeded) {
      measured.peak_memory_bytes = database.at(event.id).needs_memory;
      measured.cpu_time = CpuTime(database.at(event.id).duration.count() * run->second.cpus / 2);
    }
    if (current) {
      running.erase(run);
    }
    if (scheduler.finish(event.id, event.attempt, outcome, measured, now) != current) {
      broken(fmt::format(
          "attempt {} of build {} was taken for current or old wrongly", event.attempt, event.id));
    }
  } else if (event.kind == 1) {
    std::vector<BuildRequest> list;
    for (const auto id : batches[event.id]) {
      auto& request = database.at(id).request;
      request.submitted = now;
      list.push_back(request);
    }
    scheduler.submit(std::move(list), now);
  } else if (event.kind == 2) {
    trouble();
  } else {
    present.emplace(event.node, all_nodes.at(event.node));
    scheduler.set_node(all_nodes.at(event.node), now);
  }
}

void World::check() {
  std::map<std::string, std::pair<unsigned, std::uint64_t>> used;
  std::map<std::string, std::pair<unsigned, unsigned>> by_account;
  for (const auto& [id, run] : running) {
    used[run.node].first += run.cpus;
    used[run.node].second += run.memory;
    auto& account = by_account[database.at(id).request.account];
    ++account.first;
    account.second += run.cpus;
  }
  for (const auto& [name, amount] : used) {
    const auto node = present.find(name);
    if (node == present.end() || amount.first > node->second.cpus ||
        amount.second > node->second.memory_bytes) {
      broken(fmt::format("node {} holds {} cpus and {} bytes", name, amount.first, amount.second));
    }
  }
  for (const auto& [name, amount] : by_account) {
    const auto& quota = policies.at(name).quota;
    if ((quota.running && amount.first > *quota.running) ||
        (quota.cpus && amount.second > *quota.cpus)) {
      broken(
          fmt::format("account {} runs {} builds on {} cpus", name, amount.first, amount.second));
    }
  }
  const auto counts = scheduler.counts();
  std::size_t open = 0;
  for (const auto& [id, stored] : database) {
    open += stored.request.submitted && !stored.over ? 1U : 0U;
  }
  if (counts.builds != open || counts.running != running.size() ||
      counts.builds != counts.blocked + counts.delayed + counts.queued + counts.running) {
    broken(fmt::format("{} builds are open, the scheduler knows {} ({} blocked, {} delayed, {} "
                       "queued, {} running of {})",
                       open,
                       counts.builds,
                       counts.blocked,
                       counts.delayed,
                       counts.queued,
                       counts.running,
                       running.size()));
  }
}

void World::bounds() {
  double cpus = 0;
  for (const auto& [name, spec] : all_nodes) {
    cpus += spec.cpus;
  }
  std::map<BuildId, double> path;
  double work = 0;
  for (const auto& [id, stored] : database) { // ids grow along the edges
    double before = 0;
    for (const auto dependency : stored.request.dependencies) {
      before = std::max(before, path[dependency]);
    }
    const double seconds = static_cast<double>(stored.duration.count()) / 1000;
    path[id] = before + seconds;
    report.bound_seconds = std::max(report.bound_seconds, path[id]);
    work += seconds * 2;
  }
  report.bound_seconds = std::max(report.bound_seconds, work / cpus);
}

} // namespace

Report run(const Shape& shape) {
  World world(shape);
  const auto begin = world.now;
  world.set_up();
  world.bounds();
  double total_us = 0;
  auto last_end = begin;
  while (world.report.broken.empty() && world.report.ended < world.database.size()) {
    const auto deadline = world.scheduler.next_deadline();
    if (world.events.empty() && !deadline) {
      world.broken("nothing happens any more, and builds are left");
      break;
    }
    const auto clock = std::chrono::steady_clock::now();
    if (deadline && (world.events.empty() || *deadline < world.events.top().at)) {
      world.now = *deadline;
      world.scheduler.advance(world.now);
    } else {
      const auto event = world.events.top();
      world.events.pop();
      world.now = event.at;
      world.handle(event);
    }
    const double us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - clock).count();
    total_us += us;
    world.report.worst_event_us = std::max(world.report.worst_event_us, us);
    const auto ended = world.report.ended;
    world.take_decisions();
    last_end = world.report.ended > ended ? world.now : last_end;
    ++world.report.events;
    if (shape.check_every_event || world.report.events % 5000 == 0) {
      world.check();
    }
  }
  world.report.mean_event_us =
      total_us / static_cast<double>(std::max<std::size_t>(1, world.report.events));
  world.report.makespan_seconds = std::chrono::duration<double>(last_end - begin).count();
  return world.report;
}

} // namespace nixbuild::scheduler::simulated
