#include "simulation.hpp"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <iostream>

using namespace nixbuild::scheduler;

TEST_CASE("scheduler: keeps its promises in thousands of simulated lives",
          "[scheduler][property]") {
  const char* const first = std::getenv("NIXBUILD_TEST_SEED");
  const std::uint64_t begin = first == nullptr ? 1 : std::strtoull(first, nullptr, 10);
  const std::uint64_t count = first == nullptr ? 4000 : 1;
  std::map<Verdict, std::size_t> verdicts;
  std::size_t restarts = 0;
  for (std::uint64_t seed = begin; seed < begin + count; ++seed) {
    simulated::Shape shape;
    shape.seed = seed;
    const auto report = simulated::run(shape);
    INFO("NIXBUILD_TEST_SEED=" << seed << " repeats it");
    REQUIRE(report.broken == "");
    restarts += report.restarts_of_scheduler;
    for (const auto& [verdict, times] : report.verdicts) {
      verdicts[verdict] += times;
    }
  }
  if (first == nullptr) {
    CHECK(restarts > 100);
    CHECK(verdicts[Verdict::Succeeded] > 10'000);
    CHECK(verdicts[Verdict::DependencyFailed] > 100);
    CHECK(verdicts[Verdict::Cancelled] > 100);
    CHECK(verdicts[Verdict::RestartsExceeded] > 0);
  }
}

// Run by hand: unit-scheduler "[.full]" -s
TEST_CASE("scheduler: 2,000 derivations with every kind of trouble", "[.full]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    simulated::Shape shape;
    shape.seed = seed;
    shape.builds = 2000;
    shape.accounts = 20;
    shape.nodes = 12;
    const auto report = simulated::run(shape);
    INFO("seed " << seed);
    REQUIRE(report.broken == "");
  }
}

TEST_CASE("scheduler: 50,000 derivations of 200 accounts on 500 nodes", "[.full]") {
  simulated::Shape shape;
  shape.seed = 1;
  shape.builds = 50'000;
  shape.accounts = 200;
  shape.nodes = 500;
  shape.faults = GENERATE(false, true);
  shape.check_every_event = false;
  const auto report = simulated::run(shape);
  std::cout << "# starts " << report.starts << ", events " << report.events << ", mean event "
            << report.mean_event_us << " us, worst " << report.worst_event_us << " us, makespan "
            << report.makespan_seconds << " s, bound " << report.bound_seconds << " s, restarts "
            << report.restarts_of_scheduler << "\n";
  REQUIRE(report.broken == "");
  if (!shape.faults) {
    CHECK(report.makespan_seconds <= 1.1 * report.bound_seconds);
  }
}
