#include "state.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::scheduler {

namespace {

constexpr Milliseconds kLongestDelay{std::chrono::minutes(5)};

} // namespace

void Scheduler::State::end(Build& ended, Verdict verdict, std::string code, std::string message) {
  struct Verdicts {
    Build* build;
    Verdict verdict;
    std::string code;
    std::string message;
  };

  std::vector<Verdicts> work;
  work.push_back({&ended, verdict, std::move(code), std::move(message)});
  std::vector<Build*> ready;
  std::set<Build*> touched;
  std::set<Build*> listed{&ended};
  std::vector<BuildId> gone;
  for (std::size_t i = 0; i < work.size(); ++i) {
    Build& build = *work[i].build;
    switch (build.phase) {
    case BuildPhase::Queued:
      dequeue(build);
      break;
    case BuildPhase::Delayed:
      delayed.erase({build.not_before, build.id});
      --counts.delayed;
      break;
    case BuildPhase::Dependencies:
      --counts.blocked;
      break;
    case BuildPhase::Running:
    case BuildPhase::Stopping:
      break; // vacated by whoever calls
    }
    for (Build* dependency : build.dependencies) {
      std::erase(dependency->dependants, &build);
      touched.insert(dependency);
    }
    build.dependencies.clear();
    for (Build* dependant : build.dependants) {
      std::erase(dependant->dependencies, &build);
      if (work[i].verdict == Verdict::Succeeded) {
        if (dependant->dependencies.empty() && dependant->phase == BuildPhase::Dependencies) {
          ready.push_back(dependant);
        }
      } else if (!dependant->holds_capacity() && listed.insert(dependant).second) {
        work.push_back({dependant,
                        Verdict::DependencyFailed,
                        "scheduler.dependency",
                        fmt::format("its dependency {} (build {}) ended: {}",
                                    build.name,
                                    build.id,
                                    name_of(work[i].verdict))});
      }
    }
    build.dependants.clear();
    decisions.emplace_back(
        Ended{build.id, build.attempt, work[i].verdict, work[i].code, work[i].message});
    gone.push_back(build.id);
  }
  for (Build* build : listed) {
    touched.erase(build);
  }
  for (const auto id : gone) {
    auto& wanted = *builds.at(id)->needs;
    builds.erase(id);
    drop_needs(wanted);
  }
  counts.builds = builds.size();
  refresh_critical_paths({touched.begin(), touched.end()});
  for (Build* build : ready) {
    make_ready(*build);
  }
}

void Scheduler::State::vacate(Build& build, bool billed) {
  const auto slot = build.node;
  auto& node = nodes[slot];
  auto& room = rooms[slot];
  node.running.erase(&build);
  node.cpus_used -= build.size.cpus;
  node.memory_used -= build.size.memory_bytes;
  room.free_cpus += build.size.cpus;
  room.free_memory += static_cast<std::int64_t>(build.size.memory_bytes);
  if (build.beside) {
    room.beside_cpus += build.size.cpus;
    room.beside_memory += static_cast<std::int64_t>(build.size.memory_bytes);
    build.beside = false;
  }
  build.node = kNoNode;
  --counts.running;
  auto& usage = build.account->usage;
  --usage.running;
  usage.cpus -= build.size.cpus;
  usage.memory_bytes -= build.size.memory_bytes;
  usage.committed -= build.committed;
  build.committed = CpuTime{0};
  if (billed) {
    usage.cpu_time +=
        std::chrono::duration_cast<Milliseconds>(now - build.started) * build.size.cpus;
  }
  correct_charge(build);
  refresh(*build.account);
}

void Scheduler::State::learn_from(Build& build, Outcome outcome, const Measurements& measured) {
  Learned learned;
  learned.id = build.id;
  auto& record = learned.record;
  auto name = split_name(build.name);
  record.account = build.account->name;
  record.package = std::move(name.package);
  record.version = std::move(name.version);
  record.platform = build.needs->platform;
  record.cpus = build.size.cpus;
  record.memory_bytes = build.size.memory_bytes;
  record.peak_memory_bytes = measured.peak_memory_bytes.value_or(0);
  record.cpu_time = measured.cpu_time.value_or(CpuTime{0});
  record.duration = std::chrono::duration_cast<Milliseconds>(now - build.started);
  record.outcome = outcome;
  history.add(record);
  decisions.emplace_back(std::move(learned));
}

void Scheduler::State::lost(Build& build) {
  ++build.restarts;
  const auto& where = build.avoid;
  if (build.restarts > build.max_restarts) {
    end(build,
        Verdict::RestartsExceeded,
        "scheduler.restarts",
        fmt::format("its machine was lost {} times, the last time on '{}'; {} restarts are allowed",
                    build.restarts,
                    where,
                    build.max_restarts));
    return;
  }
  auto delay = settings.restart_delay;
  for (unsigned i = 1; i < build.restarts && delay < kLongestDelay; ++i) {
    delay *= 2;
  }
  delay = std::min(delay, std::max(kLongestDelay, settings.restart_delay));
  build.phase = BuildPhase::Delayed;
  build.not_before = now + delay;
  delayed.emplace(build.not_before, build.id);
  ++counts.delayed;
  decisions.emplace_back(Restarted{
      build.id,
      build.attempt,
      Outcome::Lost,
      build.restarts,
      build.memory_floor,
      fmt::format(
          "machine lost on '{}', restart {} of {}", where, build.restarts, build.max_restarts)});
}

void Scheduler::State::out_of_memory(Build& build) {
  const auto had = build.size.memory_bytes;
  const auto most = most_memory(build);
  const auto next = std::min(2 * had, most);
  if (next <= had) {
    end(build,
        Verdict::OutOfMemory,
        "scheduler.out-of-memory",
        fmt::format(
            "it ran out of {} MiB, and may not have more than {} MiB here", had >> 20, most >> 20));
    return;
  }
  build.memory_floor = next;
  decisions.emplace_back(Restarted{
      build.id,
      build.attempt,
      Outcome::OutOfMemory,
      build.restarts,
      next,
      fmt::format("out of memory with {} MiB, restarts with {} MiB", had >> 20, next >> 20)});
  build.phase = BuildPhase::Dependencies;
  ++counts.blocked;
  make_ready(build);
}

void Scheduler::State::attempt_over(Build& build, Outcome outcome, const Measurements& measured) {
  const bool stopped = build.phase == BuildPhase::Stopping;
  const auto slot = build.node;
  build.avoid = nodes[slot].spec.name;
  const bool at_most = build.size.memory_bytes >= most_memory(build);
  const bool billed = outcome != Outcome::Lost && (outcome != Outcome::OutOfMemory || at_most);
  vacate(build, billed);
  if (outcome == Outcome::Succeeded || outcome == Outcome::BuilderFailed ||
      outcome == Outcome::OutOfMemory) {
    learn_from(build, outcome, measured);
  }
  if (outcome == Outcome::Succeeded) {
    end(build, Verdict::Succeeded, {}, {});
  } else if (outcome == Outcome::BuilderFailed) {
    end(build, Verdict::BuilderFailed, {}, {});
  } else if (stopped || outcome == Outcome::Cancelled) {
    end(build, Verdict::Cancelled, {}, {});
  } else if (outcome == Outcome::TimedOut) {
    end(build, Verdict::TimedOut, {}, {});
  } else if (outcome == Outcome::OutOfMemory) {
    build.avoid.clear();
    out_of_memory(build);
  } else {
    lost(build);
  }
}

bool Scheduler::finish(BuildId id,
                       AttemptNumber attempt,
                       Outcome outcome,
                       const Measurements& measured,
                       MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto found = state.builds.find(id);
  if (found == state.builds.end() || !found->second->holds_capacity() ||
      found->second->attempt != attempt) {
    return false;
  }
  const auto slot = found->second->node;
  state.attempt_over(*found->second, outcome, measured);
  state.room_on(slot);
  state.dispatch();
  return true;
}

void Scheduler::cancel(BuildId id, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto found = state.builds.find(id);
  if (found == state.builds.end()) {
    return;
  }
  auto& build = *found->second;
  if (build.phase == BuildPhase::Running) {
    build.phase = BuildPhase::Stopping;
    state.decisions.emplace_back(Stop{id, build.attempt, state.nodes[build.node].spec.name});
  } else if (build.phase != BuildPhase::Stopping) {
    state.end(build, Verdict::Cancelled, {}, {});
  }
  state.dispatch();
}

} // namespace nixbuild::scheduler
