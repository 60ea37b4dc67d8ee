#include <nixbuild/scheduler/compute_engine.hpp>

#include <catch2/catch.hpp>

#include <random>

using namespace nixbuild::scheduler;

namespace {

LocalEngineSettings small_machine() {
  LocalEngineSettings settings;
  settings.capacity = Capacity{4, 8ULL << 30};
  settings.platforms = {"i686-linux", "x86_64-linux"};
  settings.features = {"benchmark", "big-parallel"};
  return settings;
}

LeaseRequest ask(LeaseId id, unsigned cpus, std::uint64_t gib) {
  LeaseRequest request;
  request.id = id;
  request.capacity = Capacity{cpus, gib << 30};
  request.platform = "x86_64-linux";
  return request;
}

} // namespace

TEST_CASE("local engine: grants while there is room, then in the order asked", "[scheduler]") {
  LocalEngine engine(small_machine());
  engine.request(ask(1, 2, 2));
  engine.request(ask(2, 2, 2));
  engine.request(ask(3, 2, 2));
  engine.request(ask(4, 1, 1));
  auto decisions = engine.take_decisions();
  REQUIRE(decisions.granted.size() == 2);
  CHECK(engine.waiting() == 2);
  engine.release(1);
  decisions = engine.take_decisions();
  REQUIRE(decisions.granted.size() == 1);
  CHECK(decisions.granted[0].id == 3);
  engine.release(2);
  decisions = engine.take_decisions();
  REQUIRE(decisions.granted.size() == 1);
  CHECK(decisions.granted[0].id == 4);
}

TEST_CASE("local engine: refuses what can never run and says what is missing",
          "[scheduler][reject]") {
  LocalEngine engine(small_machine());
  auto foreign = ask(1, 1, 1);
  foreign.platform = "riscv64-linux";
  auto special = ask(2, 1, 1);
  special.features = {"big-parallel", "kvm"};
  engine.request(foreign);
  engine.request(special);
  engine.request(ask(3, 5, 1));
  const auto decisions = engine.take_decisions();
  REQUIRE(decisions.refused.size() == 3);
  CHECK(decisions.refused[0].code == "scheduler.platform");
  CHECK(decisions.refused[0].message.find("riscv64-linux") != std::string::npos);
  CHECK(decisions.refused[1].code == "scheduler.features");
  CHECK(decisions.refused[1].message.find("{kvm}") != std::string::npos);
  CHECK(decisions.refused[2].code == "scheduler.too-big");
  CHECK(decisions.granted.empty());
}

TEST_CASE("local engine: withdrawn and unknown leases change nothing else", "[scheduler]") {
  LocalEngine engine(small_machine());
  engine.request(ask(1, 4, 1));
  engine.request(ask(2, 4, 1));
  engine.release(2);
  engine.release(99);
  engine.release(1);
  engine.release(1);
  const auto decisions = engine.take_decisions();
  REQUIRE(decisions.granted.size() == 1);
  CHECK(engine.in_use() == Capacity{});
}

TEST_CASE("local engine: never over its capacity, nothing lost, whatever happens",
          "[scheduler][property]") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    LocalEngine engine(small_machine());
    std::vector<LeaseId> held;
    std::size_t asked = 0;
    std::size_t granted = 0;
    for (LeaseId id = 1; id <= 300; ++id) {
      if (random() % 2 == 0 || held.empty()) {
        engine.request(ask(id, 1 + random() % 4, 1 + random() % 8));
        ++asked;
      } else {
        const std::size_t pick = random() % held.size();
        engine.release(held[pick]);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(pick));
      }
      for (const auto& grant : engine.take_decisions().granted) {
        held.push_back(grant.id);
        ++granted;
      }
      REQUIRE(engine.in_use().cpus <= 4);
      REQUIRE(engine.in_use().memory_bytes <= 8ULL << 30);
    }
    while (!held.empty()) {
      engine.release(held.back());
      held.pop_back();
      for (const auto& grant : engine.take_decisions().granted) {
        held.push_back(grant.id);
        ++granted;
      }
    }
    CHECK(granted == asked);
    CHECK(engine.waiting() == 0);
  }
}
