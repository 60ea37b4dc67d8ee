#include <nixbuild/scheduler/scheduler.hpp>

#include <catch2/catch.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

using namespace nixbuild::scheduler;
using nixbuild::MonotonicTime;

namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

BuildRequest sized(BuildId id, const std::string& account, unsigned cpus, Milliseconds expected) {
  BuildRequest request;
  request.id = id;
  request.account = account;
  request.name = "p";
  request.platform = "x86_64-linux";
  request.bounds.default_cpus = cpus;
  request.bounds.default_memory_per_cpu = kGiB;
  request.expected_duration = expected;
  return request;
}

NodeSpec machine(const std::string& name, unsigned cpus) {
  NodeSpec spec;
  spec.name = name;
  spec.cpus = cpus;
  spec.memory_bytes = cpus * 4 * kGiB;
  spec.platforms = {"x86_64-linux"};
  return spec;
}

} // namespace

// The bound of the header, in charges: between two starts of account i (charged c_i for the first)
// account j starts at most c_i * w_j / w_i and one more build. Builds fit whenever a machine is
// free and last as long as expected, so nothing is given back and nobody is held back.
TEST_CASE("scheduler: no account waits longer than the stated bound", "[scheduler][property]") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    INFO("seed " << seed);
    Scheduler scheduler;
    MonotonicTime now{std::chrono::hours(1)};
    scheduler.set_node(machine("n", static_cast<unsigned>(1 + random() % 3)), now);
    const std::size_t accounts = 2 + random() % 6;
    std::vector<double> weights;
    std::vector<BuildRequest> list;
    std::map<BuildId, std::pair<std::size_t, double>> builds; // account and charge
    BuildId next = 0;
    for (std::size_t i = 0; i < accounts; ++i) {
      AccountPolicy policy;
      policy.account = fmt::format("a{}", i);
      policy.weight = static_cast<double>(1 + random() % 5);
      weights.push_back(policy.weight);
      scheduler.set_account(policy, now);
      for (int n = 0; n < 60; ++n) {
        const auto seconds = 10 + random() % 300;
        builds[++next] = {i, static_cast<double>(seconds)};
        list.push_back(sized(next, policy.account, 1, std::chrono::seconds(seconds)));
        // Different sizes, of which no account has one for itself, all charged as one slot.
        list.back().bounds.default_memory_per_cpu = (1 + random() % 4) * kGiB;
      }
    }
    std::shuffle(list.begin(), list.end(), random);
    scheduler.submit(list, now);

    std::vector<std::map<std::size_t, double>> others(accounts); // since the last start of i
    std::vector<std::map<std::size_t, double>> largest(accounts);
    std::vector<double> own(accounts, 0);
    std::vector<std::size_t> left(accounts, 60);
    std::map<BuildId, std::pair<MonotonicTime, AttemptNumber>> running;
    std::size_t starts = 0;
    while (true) {
      for (auto& decision : scheduler.take_decisions()) {
        const auto* started = std::get_if<Started>(&decision);
        if (started == nullptr) {
          continue;
        }
        ++starts;
        const auto [j, charge] = builds.at(started->id);
        running[started->id] = {now + std::chrono::milliseconds(static_cast<int>(charge * 1000)),
                                started->attempt};
        others[j].clear();
        largest[j].clear();
        own[j] = charge;
        --left[j];
        for (std::size_t i = 0; i < accounts; ++i) {
          if (i == j || left[i] == 0) {
            continue;
          }
          others[i][j] += charge;
          largest[i][j] = std::max(largest[i][j], charge);
          REQUIRE(others[i][j] <= own[i] * weights[j] / weights[i] + largest[i][j] + 0.001);
        }
      }
      if (running.empty()) {
        break;
      }
      const auto first = std::min_element(
          running.begin(), running.end(), [](const auto& left_one, const auto& right_one) {
            return left_one.second.first < right_one.second.first;
          });
      now = first->second.first;
      const auto id = first->first;
      const auto attempt = first->second.second;
      running.erase(first);
      scheduler.finish(id, attempt, Outcome::Succeeded, {}, now);
    }
    REQUIRE(starts == list.size());
  }
}

TEST_CASE("scheduler: where work or the critical path decides, the end is within a tenth of it",
          "[scheduler][property]") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    std::mt19937_64 random(seed);
    INFO("seed " << seed);
    Scheduler scheduler;
    MonotonicTime now{std::chrono::hours(1)};
    const auto begin = now;
    for (int i = 0; i < 4; ++i) {
      scheduler.set_node(machine(fmt::format("n{}", i), 4), now);
    }
    // A deep chain, and beside it a wide layer that would take all machines if it went first.
    const bool deep = seed % 2 == 0;
    std::vector<BuildRequest> list;
    std::map<BuildId, std::int64_t> seconds;
    double work = 0;
    double chain = 0;
    for (BuildId id = 1; id <= 1040; ++id) {
      seconds[id] = static_cast<std::int64_t>(10 + random() % 50);
      list.push_back(sized(id, "a", 1, std::chrono::seconds(seconds[id])));
      work += static_cast<double>(seconds[id]);
      if (id > 1000) {
        if (id > 1001) {
          list.back().dependencies = {id - 1};
        }
        chain += static_cast<double>(seconds[id]);
      }
      if (deep && id == 800) {
        id = 1000; // less wide work: the chain decides
      }
    }
    scheduler.submit(list, now);
    std::multimap<MonotonicTime, std::pair<BuildId, AttemptNumber>> running;
    while (true) {
      for (auto& decision : scheduler.take_decisions()) {
        if (const auto* started = std::get_if<Started>(&decision)) {
          running.emplace(now + std::chrono::seconds(seconds.at(started->id)),
                          std::pair{started->id, started->attempt});
        }
      }
      if (running.empty()) {
        break;
      }
      now = running.begin()->first;
      const auto [id, attempt] = running.begin()->second;
      running.erase(running.begin());
      scheduler.finish(id, attempt, Outcome::Succeeded, {}, now);
    }
    CHECK(scheduler.counts().builds == 0);
    const double bound = std::max(chain, work / 16);
    CHECK(std::chrono::duration<double>(now - begin).count() <= bound * 1.1);
  }
}
