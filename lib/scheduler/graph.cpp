#include "state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <deque>

namespace nixbuild::scheduler {

namespace {

/// Critical paths order, they decide nothing else: past this many evaluations in one event they may
/// be out of date.
constexpr std::size_t kCriticalPathWork = 200'000;

} // namespace

std::vector<std::size_t> Scheduler::State::dependants_first(const std::vector<BuildRequest>& list) {
  std::unordered_map<BuildId, std::size_t> places;
  for (std::size_t i = 0; i < list.size(); ++i) {
    places.emplace(list[i].id, i);
  }
  std::vector<std::size_t> dependants(list.size(), 0);
  for (const auto& request : list) {
    for (const auto id : request.dependencies) {
      if (const auto place = places.find(id); place != places.end()) {
        ++dependants[place->second];
      }
    }
  }
  std::vector<std::size_t> order;
  order.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (dependants[i] == 0) {
      order.push_back(i);
    }
  }
  for (std::size_t next = 0; next < order.size(); ++next) {
    for (const auto id : list[order[next]].dependencies) {
      if (const auto place = places.find(id);
          place != places.end() && --dependants[place->second] == 0) {
        order.push_back(place->second);
      }
    }
  }
  if (order.size() != list.size()) {
    // Of those left, each has a dependant among them; walking up that way ends on a cycle.
    std::size_t at = 0;
    while (dependants[at] == 0) {
      ++at;
    }
    throw Error(Reaction::Reject,
                "scheduler.cycle",
                fmt::format("build {} depends on itself by way of its dependencies, or a "
                            "dependant of it does",
                            list[at].id));
  }
  return order;
}

void Scheduler::State::connect(Build& build, const std::vector<BuildId>& dependencies) {
  for (const auto id : std::set<BuildId>(dependencies.begin(), dependencies.end())) {
    if (const auto found = builds.find(id); found != builds.end()) {
      build.dependencies.push_back(found->second.get());
      found->second->dependants.push_back(&build);
    }
  }
}

void Scheduler::State::refresh_critical_paths(std::vector<Build*> touched) {
  std::deque<Build*> work(touched.begin(), touched.end());
  for (std::size_t done = 0; !work.empty() && done < kCriticalPathWork; ++done) {
    Build& build = *work.front();
    work.pop_front();
    std::int64_t longest = build.behind_ms;
    for (const Build* dependant : build.dependants) {
      longest = std::max(longest, dependant->critical_ms);
    }
    const std::int64_t critical = longest + build.expected.count();
    if (critical == build.critical_ms) {
      continue;
    }
    done += build.dependants.size();
    const bool queued = build.phase == BuildPhase::Queued;
    if (queued) {
      auto& queue = build.key->lanes[build.lane == Lane::Interactive ? 0 : 1].classes.at(
          build.size_class->serial);
      queue.by_rank.erase(build.rank());
      build.critical_ms = critical;
      queue.by_rank.emplace(build.rank(), &build);
    } else {
      build.critical_ms = critical;
    }
    work.insert(work.end(), build.dependencies.begin(), build.dependencies.end());
  }
}

} // namespace nixbuild::scheduler
