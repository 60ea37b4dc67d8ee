#include <nixbuild/scheduler/scheduler.hpp>

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <malloc.h>

#include <deque>
#include <random>

// A full farm: every node busy, a long queue of many accounts. One step is one run that ends and
// whatever that starts.

using namespace nixbuild::scheduler;

namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

struct Farm {
  Scheduler scheduler;
  nixbuild::MonotonicTime now{std::chrono::hours(1)};
  std::mt19937_64 random{1};
  BuildId last = 0;
  std::deque<Started> running;
  double bytes_per_build = 0;

  BuildRequest build() {
    BuildRequest request;
    request.id = ++last;
    request.account = fmt::format("account-{}", random() % 200);
    request.key = fmt::format("key-{}", random() % 3);
    request.name = fmt::format("package-{}-1.{}", random() % 5000, random() % 3);
    request.platform = random() % 50 == 0 ? "i686-linux" : "x86_64-linux";
    request.lane = random() % 4 == 0 ? Lane::Interactive : Lane::Batch;
    request.bounds.default_cpus = static_cast<unsigned>(1U << (random() % 4));
    request.bounds.max_memory = 32 * kGiB;
    request.expected_duration = Milliseconds(1000 + random() % 600'000);
    if (random() % 40 == 0) {
      request.features = {fmt::format("mem:{}", 1 + random() % 30)};
    }
    return request;
  }

  void collect() {
    for (auto& decision : scheduler.take_decisions()) {
      if (auto* started = std::get_if<Started>(&decision)) {
        running.push_back(std::move(*started));
      }
    }
  }

  Farm(std::size_t waiting, std::size_t nodes) {
    for (std::size_t i = 0; i < nodes; ++i) {
      NodeSpec spec;
      spec.name = fmt::format("node-{}", i);
      spec.cpus = i % 3 == 0 ? 64 : 16;
      spec.memory_bytes = spec.cpus * 4 * kGiB;
      spec.platforms = {"i686-linux", "x86_64-linux"};
      spec.features = {"big-parallel"};
      scheduler.set_node(spec, now);
    }
    std::vector<BuildRequest> filling;
    while (scheduler.counts().queued < 100) {
      filling.clear();
      for (int i = 0; i < 1000; ++i) {
        filling.push_back(build());
      }
      scheduler.submit(filling, now);
      collect();
    }
    std::vector<BuildRequest> list;
    for (std::size_t i = scheduler.counts().queued; i < waiting; ++i) {
      list.push_back(build());
    }
    const auto count = static_cast<double>(list.size());
    const auto before = mallinfo2();
    {
      auto given = list;
      scheduler.submit(std::move(given), now);
    }
    const auto after = mallinfo2();
    bytes_per_build =
        static_cast<double>(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) /
        std::max(1.0, count);
    collect();
  }
};

void end_and_start(benchmark::State& state) {
  Farm farm(static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1)));
  std::size_t starts = 0;
  for (auto _ : state) {
    const auto place = farm.random() % farm.running.size();
    std::swap(farm.running[place], farm.running.back());
    const auto run = std::move(farm.running.back());
    farm.running.pop_back();
    farm.now += std::chrono::milliseconds(50);
    const auto before = farm.running.size();
    farm.scheduler.finish(run.id, run.attempt, Outcome::Succeeded, {}, farm.now);
    farm.collect();
    starts += farm.running.size() - before;
    state.PauseTiming();
    while (farm.scheduler.counts().queued < static_cast<std::size_t>(state.range(0))) {
      farm.scheduler.submit({farm.build()}, farm.now);
      farm.collect();
    }
    state.ResumeTiming();
  }
  state.counters["starts_per_event"] =
      static_cast<double>(starts) / static_cast<double>(state.iterations());
  state.counters["bytes_per_waiting_build"] = farm.bytes_per_build;
}

void submit_one(benchmark::State& state) {
  Farm farm(static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1)));
  for (auto _ : state) {
    auto one = farm.build();
    farm.scheduler.submit({one}, farm.now);
    farm.scheduler.cancel(one.id, farm.now);
  }
}

void explain_one(benchmark::State& state) {
  Farm farm(static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1)));
  for (auto _ : state) {
    benchmark::DoNotOptimize(farm.scheduler.explain(farm.last, farm.now));
  }
}

BENCHMARK(end_and_start)->Args({1'000, 1})->Args({50'000, 500});
BENCHMARK(submit_one)->Args({50'000, 500});
BENCHMARK(explain_one)->Args({50'000, 500});

} // namespace

BENCHMARK_MAIN();
