#pragma once

#include <nixbuild/scheduler/scheduler.hpp>

#include <cstdint>
#include <map>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

/// A builder's whole life in simulated time: accounts submit graphs, machines come and go, builds
/// fail, the scheduler itself is restarted from what a database would hold.
namespace nixbuild::scheduler::simulated {

struct Shape {
  std::uint64_t seed = 0;
  std::size_t builds = 60;
  std::size_t accounts = 4;
  std::size_t nodes = 3;
  bool faults = true; ///< losses, cancellations, restarts, quotas
  bool check_every_event = true;
};

struct Report {
  std::string broken; ///< the first invariant that did not hold; empty: all did
  std::size_t starts = 0;
  std::size_t ended = 0;
  std::size_t events = 0;
  std::size_t restarts_of_scheduler = 0;
  std::map<Verdict, std::size_t> verdicts;
  double makespan_seconds = 0;
  double bound_seconds = 0; ///< the greater of critical path and work over cpus
  double mean_event_us = 0; ///< only where asked for
  double worst_event_us = 0;
};

[[nodiscard]] Report run(const Shape& shape);

} // namespace nixbuild::scheduler::simulated
