#include "state.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::scheduler {

namespace {

constexpr std::size_t kNamedDependencies = 16;

} // namespace

std::optional<Explanation> Scheduler::explain(BuildId id, MonotonicTime now) const {
  const auto found = state_->builds.find(id);
  if (found == state_->builds.end()) {
    return std::nullopt;
  }
  state_->now = std::max(state_->now, now);
  return state_->explain(*found->second);
}

Explanation Scheduler::State::explain(const Build& build) const {
  Explanation text;
  text.id = build.id;
  text.account = build.account->name;
  text.tags = build.tags;
  text.phase = build.phase;
  text.attempt = build.attempt;
  text.restarts = build.restarts;
  text.critical_path = Milliseconds{build.critical_ms};
  text.open_dependencies = build.dependencies.size();
  for (std::size_t i = 0; i < std::min(kNamedDependencies, build.dependencies.size()); ++i) {
    text.dependencies.push_back(build.dependencies[i]->id);
  }
  text.cpus = build.size.cpus;
  text.memory_bytes = build.size.memory_bytes;
  text.why_size = build.size.why;
  switch (build.phase) {
  case BuildPhase::Dependencies:
    text.waiting_for = WaitingFor::Build;
    text.detail = fmt::format("waits for {} of its dependencies, among them {}",
                              build.dependencies.size(),
                              build.dependencies.empty() ? "" : build.dependencies.front()->name);
    break;
  case BuildPhase::Delayed:
    text.waiting_for = WaitingFor::Restart;
    text.expected_start = build.not_before;
    text.detail = fmt::format(
        "restarts in {} s; its machine was lost on '{}'",
        std::max<std::int64_t>(
            0, std::chrono::duration_cast<std::chrono::seconds>(build.not_before - now).count()),
        build.avoid);
    break;
  case BuildPhase::Queued:
    explain_queued(build, text);
    break;
  case BuildPhase::Running:
  case BuildPhase::Stopping:
    text.node = nodes[build.node].spec.name;
    text.started = build.started;
    text.expected_end = std::max(now, build.started + build.expected);
    text.detail = fmt::format("{} on '{}' with {} cpus and {} MiB ({})",
                              build.phase == BuildPhase::Running ? "runs" : "is being stopped",
                              text.node,
                              build.size.cpus,
                              build.size.memory_bytes >> 20,
                              build.size.why);
    break;
  }
  return text;
}

void Scheduler::State::explain_queued(const Build& build, Explanation& text) const {
  const auto& share = *build.share;
  for (const auto& [name, key] : share.keys) {
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const bool before = lane < (build.lane == Lane::Interactive ? 0U : 1U);
      const bool same = lane == (build.lane == Lane::Interactive ? 0U : 1U);
      for (const auto& [serial, queue] : key->lanes[lane].classes) {
        for (const auto& [rank, other] : queue.by_rank) {
          const bool ahead = before || (same && rank < build.rank());
          text.ahead_in_account += ahead ? 1 : 0;
          if (same && !ahead) {
            break; // in order: none of the others is ahead
          }
        }
      }
    }
  }
  for (const auto& [name, account] : accounts) {
    const auto other = account->shares.find(share.pool->name);
    if (other != account->shares.end() && other->second.get() != &share && other->second->active &&
        other->second->pass < share.pass) {
      ++text.accounts_ahead;
    }
  }
  if (share.reserved == &build) {
    text.reserved_node = nodes[share.reserved_node].spec.name;
  }
  text.quota = quota_state(build);
  if (draining) {
    text.waiting_for = WaitingFor::Draining;
    text.detail = "the builder is draining and starts nothing";
  } else if (text.quota) {
    text.waiting_for = WaitingFor::Quota;
    text.detail = fmt::format("account '{}' uses {} of its quota of {} {}, this build adds {}",
                              build.account->name,
                              text.quota->used,
                              text.quota->limit,
                              text.quota->name,
                              text.quota->wanted);
  } else {
    text.waiting_for = explain_room(build, text.detail);
    estimate_start(build, text);
  }
  if (text.ahead_in_account + text.accounts_ahead > 0) {
    text.detail += fmt::format("; {} builds of its account and {} other accounts are before it",
                               text.ahead_in_account,
                               text.accounts_ahead);
  }
}

WaitingFor Scheduler::State::explain_room(const Build& build, std::string& detail) const {
  std::size_t suited = 0;
  std::size_t usable = 0;
  bool cpus = false;
  bool memory = false;
  bool both = false;
  std::string closed;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto& node = nodes[i];
    if (!node.announced || build.needs->offered[rooms[i].kind] == 0 ||
        node.spec.cpus < build.size.cpus || node.spec.memory_bytes < build.size.memory_bytes) {
      continue;
    }
    ++suited;
    if (!rooms[i].usable) {
      const auto why = node.draining ? std::string("draining") : closed_because(node);
      closed = fmt::format("'{}' takes nothing new: {}", node.spec.name, why);
      continue;
    }
    ++usable;
    const bool has_cpus = rooms[i].free_cpus >= build.size.cpus;
    const bool has_memory =
        rooms[i].free_memory >= static_cast<std::int64_t>(build.size.memory_bytes);
    cpus = cpus || has_cpus;
    memory = memory || has_memory;
    both = both || (has_cpus && has_memory);
  }
  if (suited == 0) {
    detail = unplaceable(build).message;
    return WaitingFor::Node;
  }
  if (usable == 0) {
    detail = closed;
    return WaitingFor::Gate;
  }
  const auto wants = fmt::format("{} {} and {} MiB",
                                 build.size.cpus,
                                 build.size.cpus == 1 ? "cpu" : "cpus",
                                 build.size.memory_bytes >> 20);
  if (both) {
    detail = fmt::format("a node has {} free, but others are before it or a bigger build keeps it",
                         wants);
    return WaitingFor::Turn;
  }
  detail = usable == 1 ? fmt::format("{} are not free", wants)
                       : fmt::format("none of {} nodes has {} free", usable, wants);
  if (memory == cpus) {
    return WaitingFor::Capacity;
  }
  return memory ? WaitingFor::Cpus : WaitingFor::Memory;
}

void Scheduler::State::estimate_start(const Build& build, Explanation& text) const {
  // The account's part of all cpus, shared with those that wait too, works off what is before.
  const auto& share = *build.share;
  double total = 0;
  for (const auto& [name, account] : accounts) {
    const auto other = account->shares.find(share.pool->name);
    if (other != account->shares.end() && other->second->active) {
      total += account->weight;
    }
  }
  double slots = 0;
  auto earliest = MonotonicTime::max();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].announced && build.needs->offered[rooms[i].kind] != 0) {
      slots += nodes[i].spec.cpus;
      for (const Build* run : nodes[i].running) {
        earliest = std::min(earliest, std::max(now, run->started + run->expected));
      }
    }
  }
  if (slots <= 0 || text.waiting_for == WaitingFor::Node || text.waiting_for == WaitingFor::Gate) {
    return;
  }
  const double part = slots * share.account->weight / std::max(total, share.account->weight);
  const double work = static_cast<double>(text.ahead_in_account) * build.size.cpus *
                      std::chrono::duration<double>(build.expected).count();
  const auto wait = std::chrono::duration_cast<MonotonicTime::duration>(
      std::chrono::duration<double>(std::min(work / part, 3e7)));
  text.expected_start = (earliest == MonotonicTime::max() ? now : earliest) + wait;
}

} // namespace nixbuild::scheduler
