#include <nixbuild/base/error.hpp>
#include <nixbuild/scheduler/scheduler.hpp>

#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <malloc.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

using namespace nixbuild::scheduler;
using nixbuild::MonotonicTime;

namespace scheduler_test {

namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

struct Bench {
  explicit Bench(SchedulerSettings settings = {}) : scheduler(std::move(settings)) {}

  void node(const std::string& name, unsigned cpus, std::uint64_t gib) {
    NodeSpec spec;
    spec.name = name;
    spec.cpus = cpus;
    spec.memory_bytes = gib * kGiB;
    spec.platforms = {"i686-linux", "x86_64-linux"};
    spec.features = {"big-parallel"};
    scheduler.set_node(spec, now);
  }

  static BuildRequest
  build(BuildId id, const std::string& account = "a", unsigned cpus = 1, std::uint64_t gib = 1) {
    BuildRequest request;
    request.id = id;
    request.account = account;
    request.name = fmt::format("p{}-1", id);
    request.platform = "x86_64-linux";
    request.bounds.default_cpus = cpus;
    request.bounds.default_memory_per_cpu = gib * kGiB / cpus;
    return request;
  }

  void submit(BuildRequest request) {
    std::vector<BuildRequest> one;
    one.push_back(std::move(request));
    scheduler.submit(std::move(one), now);
  }

  /// Takes the decisions; keeps the starts and the ends.
  std::vector<BuildId> starts() {
    std::vector<BuildId> ids;
    for (auto& decision : scheduler.take_decisions()) {
      if (const auto* started = std::get_if<Started>(&decision)) {
        ids.push_back(started->id);
        last[started->id] = *started;
      } else if (const auto* over = std::get_if<Ended>(&decision)) {
        ended[over->id] = *over;
      } else if (const auto* again = std::get_if<Restarted>(&decision)) {
        restarted = *again;
      } else if (const auto* stop = std::get_if<Stop>(&decision)) {
        stopped = stop->id;
      }
    }
    return ids;
  }

  bool finish(BuildId id, Outcome outcome = Outcome::Succeeded) {
    return scheduler.finish(id, last.at(id).attempt, outcome, {}, now);
  }

  Scheduler scheduler;
  MonotonicTime now{std::chrono::hours(1)};
  std::map<BuildId, Started> last;
  std::map<BuildId, Ended> ended;
  Restarted restarted;
  BuildId stopped = 0;
};

using Ids = std::vector<BuildId>;

std::string code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const nixbuild::Error& error) {
    return error.code();
  }
  return "none";
}

} // namespace

TEST_CASE("scheduler: dependencies first, and the longest chain before a single build",
          "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  bench.submit(Bench::build(9));
  CHECK(bench.starts() == Ids{9});
  std::vector<BuildRequest> graph{Bench::build(1), Bench::build(2), Bench::build(3)};
  graph[1].dependencies = {3}; // 3 stands behind 2 in the list, and is needed by it
  bench.scheduler.submit(graph, bench.now);
  CHECK(bench.scheduler.counts().blocked == 1);
  bench.finish(9);
  CHECK(bench.starts() == Ids{3});
  CHECK(bench.scheduler.explain(2, bench.now)->waiting_for == WaitingFor::Build);
  bench.finish(3, Outcome::BuilderFailed);
  CHECK(bench.starts() == Ids{1});
  CHECK(bench.ended.at(2).code == "scheduler.dependency");
  CHECK(bench.ended.at(3).verdict == Verdict::BuilderFailed);
}

TEST_CASE("scheduler: what a graph says waits behind a build counts before it is submitted",
          "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  bench.submit(Bench::build(9));
  CHECK(bench.starts() == Ids{9});
  auto lonely = Bench::build(1);
  auto bottom = Bench::build(2);
  bottom.builds_behind = 3;
  auto above = Bench::build(3); // needed by one that is there: the same as one that is announced
  auto top = Bench::build(4);
  top.dependencies = {3};
  bench.scheduler.submit({lonely, bottom, above, top}, bench.now);
  bench.finish(9);
  CHECK(bench.starts() == Ids{2});
  bench.finish(2);
  CHECK(bench.starts() == Ids{3});
  auto announced = Bench::build(5);
  announced.builds_behind = SIZE_MAX;
  bench.scheduler.submit({announced}, bench.now);
  bench.finish(3);
  CHECK(bench.starts() == Ids{5});
}

TEST_CASE("scheduler: refuses cycles, known ids and more than it may hold", "[scheduler][reject]") {
  SchedulerSettings settings;
  settings.max_builds = 2;
  Bench bench(settings);
  bench.node("n", 1, 8);
  std::vector<BuildRequest> circle{Bench::build(1), Bench::build(2)};
  circle[0].dependencies = {2};
  circle[1].dependencies = {1};
  CHECK(code_of([&] { bench.scheduler.submit(circle, bench.now); }) == "scheduler.cycle");
  bench.submit(Bench::build(1));
  CHECK(code_of([&] { bench.submit(Bench::build(1)); }) == "scheduler.duplicate-build");
  std::vector<BuildRequest> many{Bench::build(2), Bench::build(3)};
  CHECK(code_of([&] { bench.scheduler.submit(many, bench.now); }) == "scheduler.full");
  CHECK(bench.scheduler.counts().builds == 1);
}

TEST_CASE("scheduler: says at once what can never run", "[scheduler][reject]") {
  Bench bench;
  bench.node("n", 4, 8);
  AccountPolicy poor;
  poor.account = "poor";
  poor.quota.cpus = 1;
  bench.scheduler.set_account(poor, bench.now);
  std::string message;
  auto refusal = [&](const std::function<void(BuildRequest&)>& change) {
    static BuildId id = 0;
    auto request = Bench::build(++id);
    change(request);
    bench.submit(request);
    bench.starts();
    CHECK(bench.ended[id].verdict == Verdict::Refused);
    message = bench.ended[id].message;
    return bench.ended[id].code;
  };
  CHECK(refusal([](auto& one) { one.platform = "riscv64-linux"; }) == "scheduler.platform");
  CHECK(refusal([](auto& one) { one.features = {"kvm"}; }) == "scheduler.features");
  CHECK(refusal([](auto& one) {
          one.features = {"big-parallel", "kvm", "mem:1", "uid-range"};
        }) == "scheduler.features");
  CHECK(message == "this builder does not offer the system features 'kvm', 'uid-range'");
  CHECK(refusal([](auto& one) {
          one.platform = kEveryPlatform;
          one.features = {"kvm"};
        }) == "scheduler.features");
  CHECK(refusal([](auto& one) { one.features = {"mem:x"}; }) == "scheduler.feature-syntax");
  CHECK(refusal([](auto& one) { one.features = {"mem:100"}; }) == "scheduler.bounds");
  CHECK(refusal([](auto& one) { one.features = {"mem:16"}; }) == "scheduler.too-big");
  CHECK(refusal([](auto& one) {
          one.account = "poor";
          one.features = {"cpu:2"};
        }) == "scheduler.quota");
}

TEST_CASE("scheduler: what every machine can do starts on any", "[scheduler]") {
  Bench bench;
  bench.node("n", 4, 8);
  auto request = Bench::build(1);
  request.platform = kEveryPlatform;
  bench.submit(request);
  CHECK(bench.starts().size() == 1);
}

TEST_CASE("scheduler: accounts get starts by their weights, and a newcomer waits for one of each",
          "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  AccountPolicy heavy;
  heavy.account = "heavy";
  heavy.weight = 3;
  bench.scheduler.set_account(heavy, bench.now);
  std::vector<BuildRequest> list;
  for (BuildId id = 1; id <= 400; ++id) {
    list.push_back(Bench::build(id, id % 2 == 0 ? "heavy" : "light"));
  }
  bench.scheduler.submit(list, bench.now);
  std::map<bool, int> served;
  auto running = bench.starts();
  for (int i = 0; i < 200; ++i) {
    ++served[running.at(0) % 2 == 0];
    bench.now += std::chrono::minutes(1);
    bench.finish(running.at(0));
    running = bench.starts();
  }
  CHECK(served[true] >= 148);
  CHECK(served[true] <= 152);
  bench.submit(Bench::build(1000, "new"));
  int waited = 0;
  while (running.at(0) != 1000) {
    ++waited;
    bench.now += std::chrono::minutes(1);
    bench.finish(running.at(0));
    running = bench.starts();
    REQUIRE(waited < 10);
  }
  CHECK(waited <= 3); // the one that ran, and one of each other account
}

TEST_CASE("scheduler: the keys of an account share its part by their weights", "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  std::vector<BuildRequest> list;
  for (BuildId id = 1; id <= 80; ++id) {
    list.push_back(Bench::build(id));
    list.back().key = id % 2 == 0 ? "heavy" : "light";
  }
  const auto account = list.front().account;
  bench.scheduler.set_key_weight(account, "heavy", 3, bench.now);
  bench.scheduler.submit(list, bench.now);
  int heavy = 0;
  auto running = bench.starts();
  for (int i = 0; i < 40; ++i) {
    heavy += running.at(0) % 2 == 0 ? 1 : 0;
    bench.now += std::chrono::minutes(1);
    bench.finish(running.at(0));
    running = bench.starts();
  }
  CHECK(heavy >= 29);
  CHECK(heavy <= 31);
}

TEST_CASE("scheduler: interactive before batch, and batch every fifth", "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  std::vector<BuildRequest> list;
  for (BuildId id = 1; id <= 40; ++id) {
    list.push_back(Bench::build(id));
    list.back().lane = id % 2 == 0 ? Lane::Interactive : Lane::Batch;
  }
  bench.scheduler.submit(list, bench.now);
  std::string order;
  for (auto running = bench.starts(); order.size() < 20; running = bench.starts()) {
    order += running.at(0) % 2 == 0 ? 'i' : 'b';
    bench.finish(running.at(0));
  }
  CHECK(order == "iiiibiiiibiiiibiiiib");
}

TEST_CASE("scheduler: a big build gets a node reserved and is not starved", "[scheduler]") {
  Bench bench;
  bench.node("n", 4, 16);
  BuildId next = 1;
  auto running = Ids{};
  for (int i = 0; i < 4; ++i) {
    bench.submit(Bench::build(next++, "small"));
  }
  running = bench.starts();
  bench.submit(Bench::build(999, "big", 4, 8));
  int starts = 0;
  for (; !bench.last.contains(999) && starts < 100; ++starts) {
    bench.submit(Bench::build(next++, "small"));
    bench.now += std::chrono::minutes(1);
    REQUIRE_FALSE(running.empty());
    bench.finish(running.front());
    running.erase(running.begin());
    for (const auto id : bench.starts()) {
      running.push_back(id);
    }
    if (running.empty()) {
      break;
    }
  }
  CHECK(bench.last.contains(999));
  CHECK(starts <= 16 + 5);
}

TEST_CASE("scheduler: quotas hold, are named, and the month's cpu time ends starts",
          "[scheduler]") {
  Bench bench;
  bench.node("n", 8, 32);
  AccountPolicy policy;
  policy.account = "a";
  policy.quota.running = 1;
  policy.quota.cpu_time = std::chrono::hours(1);
  bench.scheduler.set_account(policy, bench.now);
  bench.submit(Bench::build(1));
  bench.submit(Bench::build(2));
  CHECK(bench.starts() == Ids{1});
  const auto why = *bench.scheduler.explain(2, bench.now);
  CHECK(why.waiting_for == WaitingFor::Quota);
  CHECK(why.quota->name == "running");
  bench.now += std::chrono::hours(2);
  bench.finish(1);
  CHECK(bench.starts().empty());
  CHECK(bench.scheduler.explain(2, bench.now)->quota->name == "cpu-time");
  bench.scheduler.set_cpu_time_used("a", CpuTime{0}, bench.now);
  CHECK(bench.starts() == Ids{2});
}

TEST_CASE("scheduler: out of memory restarts with twice as much, up to the most", "[scheduler]") {
  Bench bench;
  bench.node("n", 8, 3);
  bench.submit(Bench::build(1));
  bench.starts();
  CHECK(bench.last.at(1).memory_bytes == kGiB);
  bench.finish(1, Outcome::OutOfMemory);
  CHECK(bench.starts() == Ids{1});
  CHECK(bench.last.at(1).memory_bytes == 2 * kGiB);
  CHECK(bench.restarted.reason == Outcome::OutOfMemory);
  bench.finish(1, Outcome::OutOfMemory);
  CHECK(bench.starts() == Ids{1});
  CHECK(bench.last.at(1).memory_bytes == 3 * kGiB);
  bench.finish(1, Outcome::OutOfMemory);
  bench.starts();
  CHECK(bench.ended.at(1).code == "scheduler.out-of-memory");
}

TEST_CASE("scheduler: a lost machine means elsewhere, later, and not for ever", "[scheduler]") {
  Bench bench;
  bench.node("n1", 1, 8);
  bench.node("n2", 1, 8);
  auto request = Bench::build(1);
  request.max_restarts = 1;
  bench.submit(request);
  bench.starts();
  const auto first = bench.last.at(1);
  bench.finish(1, Outcome::Lost);
  CHECK(bench.starts().empty());
  CHECK(bench.scheduler.explain(1, bench.now)->phase == BuildPhase::Delayed);
  bench.now = *bench.scheduler.next_deadline();
  bench.scheduler.advance(bench.now);
  CHECK(bench.starts() == Ids{1});
  CHECK(bench.last.at(1).node != first.node);
  CHECK(bench.last.at(1).attempt == 2);
  CHECK_FALSE(bench.scheduler.finish(1, 1, Outcome::Succeeded, {}, bench.now));
  bench.scheduler.lose_node(bench.last.at(1).node, bench.now);
  bench.starts();
  CHECK(bench.ended.at(1).code == "scheduler.restarts");
}

TEST_CASE("scheduler: cancelling stops what runs and ends it when it has stopped", "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  bench.submit(Bench::build(1));
  bench.submit(Bench::build(2));
  bench.starts();
  bench.scheduler.cancel(2, bench.now);
  bench.scheduler.cancel(1, bench.now);
  bench.starts();
  CHECK(bench.stopped == 1);
  CHECK(bench.ended.at(2).verdict == Verdict::Cancelled);
  CHECK_FALSE(bench.ended.contains(1));
  bench.finish(1, Outcome::Lost);
  bench.starts();
  CHECK(bench.ended.at(1).verdict == Verdict::Cancelled);
}

TEST_CASE("scheduler: closed gates, draining nodes and a draining builder start nothing",
          "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  NodeHealth health;
  health.free_disk_bytes = 1;
  bench.scheduler.set_health("n", health, bench.now);
  bench.submit(Bench::build(1));
  CHECK(bench.starts().empty());
  CHECK(bench.scheduler.explain(1, bench.now)->waiting_for == WaitingFor::Gate);
  bench.scheduler.set_health("n", {}, bench.now);
  CHECK(bench.starts() == Ids{1});
  bench.scheduler.drain_node("n", bench.now);
  bench.finish(1);
  bench.submit(Bench::build(2));
  CHECK(bench.starts().empty());
  bench.scheduler.drain(bench.now);
  bench.node("n", 1, 8);
  CHECK(bench.starts().empty());
  CHECK(bench.scheduler.idle());
  CHECK(bench.scheduler.explain(2, bench.now)->waiting_for == WaitingFor::Draining);
  bench.scheduler.resume(bench.now);
  CHECK(bench.starts() == Ids{2});
}

TEST_CASE("scheduler: adopts a run on a node that it gets to know later", "[scheduler]") {
  Bench bench;
  auto request = Bench::build(1);
  request.last_attempt = 3;
  request.running = RunningAttempt{"n", 2, 2 * kGiB, bench.now};
  bench.submit(request);
  CHECK(bench.starts().empty());
  bench.node("n", 2, 4);
  bench.submit(Bench::build(2));
  CHECK(bench.starts().empty());
  CHECK(bench.scheduler.explain(2, bench.now)->waiting_for == WaitingFor::Cpus);
  CHECK(bench.scheduler.finish(1, 3, Outcome::Succeeded, {}, bench.now));
  CHECK(bench.starts() == Ids{2});
}

TEST_CASE("sizing: features, history, bounds and steps", "[scheduler]") {
  SizeBounds bounds;
  CHECK(split_name("gcc-wrapper-12.3.0").package == "gcc-wrapper");
  CHECK(split_name("gcc-wrapper-12.3.0").version == "12.3.0");
  CHECK(split_name("source").version == "");
  CHECK(size_of_build({}, bounds, std::nullopt).cpus == 2);
  CHECK(size_of_build({}, bounds, std::nullopt).memory_bytes == 7 * kGiB);
  CHECK(size_of_build({"big-parallel"}, bounds, std::nullopt).cpus == 16);
  CHECK(size_of_build({"cpu:3", "mem:5"}, bounds, std::nullopt).cpus == 3);
  CHECK(size_of_build({"cpu:3", "mem:5"}, bounds, std::nullopt).memory_bytes == 5 * kGiB);
  History history(10, 2);
  BuildRecord record;
  record.account = "a";
  record.package = "hello";
  record.version = "1";
  record.platform = "x86_64-linux";
  record.cpus = 4;
  record.memory_bytes = 4 * kGiB;
  record.peak_memory_bytes = kGiB;
  record.duration = std::chrono::seconds(10);
  record.cpu_time = std::chrono::seconds(39);
  history.add(record);
  const auto same = history.predict("a", {"hello", "1"}, "x86_64-linux");
  REQUIRE(same);
  CHECK(size_of_build({}, bounds, same).cpus == 8);
  CHECK(size_of_build({}, bounds, same).memory_bytes == kGiB + kGiB / 2);
  record.version = "2";
  record.cpu_time = std::chrono::seconds(8);
  record.outcome = Outcome::OutOfMemory;
  history.add(record);
  const auto newer = history.predict("b", {"hello", "2"}, "x86_64-linux");
  CHECK(newer->exceeded_memory == 4 * kGiB);
  CHECK(size_of_build({}, bounds, newer).memory_bytes == 8 * kGiB);
  CHECK_FALSE(history.predict("a", {"hello", "1"}, "aarch64-linux"));
  for (int i = 0; i < 100; ++i) {
    record.package = fmt::format("p{}", i);
    history.add(record);
  }
  CHECK(history.size() == 10);
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("scheduler: a waiting build takes less than 4 KiB", "[scheduler]") {
  Bench bench;
  bench.node("n", 1, 8);
  std::vector<BuildRequest> list;
  for (BuildId id = 1; id <= 5000; ++id) {
    list.push_back(Bench::build(id, fmt::format("account-{}", id % 50)));
  }
  const auto before = mallinfo2();
  bench.scheduler.submit(list, bench.now);
  const auto after = mallinfo2();
  CHECK((after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) / 5000 < 4096);
}
#endif

} // namespace scheduler_test
