#include "build/guest_figures.hpp"
#include "build_rig.hpp"

#include <catch2/catch.hpp>

#include <limits>

namespace guest_figures_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using namespace std::chrono_literals;
using std::chrono::microseconds;

namespace {

constexpr auto kEndless = microseconds(std::numeric_limits<std::int64_t>::max());
constexpr auto kEver = std::numeric_limits<std::uint64_t>::max();

/// What a guest says that wants the host's sums to overflow.
sandbox::GuestExit boasting() {
  sandbox::GuestExit exit;
  exit.cpu_user = kEndless;
  exit.cpu_system = kEndless;
  exit.boot_time = kEndless;
  exit.mount_time = kEndless;
  exit.builder_time = kEndless;
  exit.peak_memory_bytes = kEver;
  exit.disk_bytes = kEver;
  return exit;
}

} // namespace

TEST_CASE("guest figures: none is beyond what its machine can have taken", "[build]") {
  build::MachineFacts facts{2, kGiB, 3 * kGiB, 10s, std::nullopt};
  auto exit = build::believable(boasting(), facts);
  CHECK(exit.cpu_user == 20s); // two cpus for all of its life
  CHECK(exit.cpu_system == 0s);
  CHECK(exit.builder_time == 10s);
  CHECK(exit.boot_time == 10s);
  CHECK(exit.mount_time == 10s);
  CHECK(exit.peak_memory_bytes == kGiB);
  CHECK(exit.disk_bytes == 3 * kGiB);
  facts.cpu = 3s;
  exit = build::believable(boasting(), facts);
  CHECK(exit.cpu_user == 3s);
  CHECK(exit.cpu_system == 0s);
  sandbox::GuestExit negative;
  negative.cpu_user = microseconds(std::numeric_limits<std::int64_t>::min());
  negative.cpu_system = -1us;
  exit = build::believable(negative, facts);
  CHECK(exit.cpu_user == 0s);
  CHECK(exit.cpu_system == 0s);
}

TEST_CASE("guest figures: what is possible stays as it was said", "[build]") {
  const build::MachineFacts facts{2, kGiB, 0, 10s, 5s};
  sandbox::GuestExit exit;
  exit.cpu_user = 2s;
  exit.cpu_system = 1s;
  exit.builder_time = 9s;
  exit.peak_memory_bytes = kMiB;
  exit.disk_bytes = kMiB;
  CHECK(build::believable(exit, facts) == exit);
}

TEST_CASE("guest figures: an account pays what the host has counted", "[build]") {
  for (const bool boasts : {true, false}) {
    World world;
    Daemon daemon(world, [boasts](const sandbox::ExecutionPlan&) {
      FakeBuild build;
      build.nars.push_back(nar_of_file("made"));
      if (boasts) {
        build.exit = boasting();
      }
      build.cpu_of_host = 7s;
      return build;
    });
    const auto asker = daemon.complete(request_for(world.alice, "x"));
    CHECK(asker->result().status == model::BuildStatus::Built);
    const auto record = world.db->build(world.alice, asker->number());
    REQUIRE(record);
    CHECK(record->cpu_us == 7'000'000);
    CHECK(record->peak_memory_bytes <= record->memory_bytes);
    CHECK(record->disk_bytes <= 64 * kGiB); // the scratch disk that builds get without a setting
  }
}

} // namespace guest_figures_test
