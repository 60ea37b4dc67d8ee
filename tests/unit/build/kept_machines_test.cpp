#include "build_rig.hpp"

#include <nixbuild/build/kept_machines.hpp>

#include <catch2/catch.hpp>

namespace kept_machines_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using model::BuildStatus;

namespace {

FakeBuild failing(const sandbox::ExecutionPlan&) {
  FakeBuild build;
  build.log.push_back({"tried\n"});
  build.exit.code = 3;
  build.has_terminal = true;
  return build;
}

std::string code_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return std::string(error.code());
  }
  return "none";
}

/// A daemon that keeps up to two machines, and whose time can be moved.
struct Keeper {
  struct MovedClock final : Clock {
    [[nodiscard]] WallTime wall() const override { return WallTime(std::chrono::seconds(1)); }

    [[nodiscard]] MonotonicTime monotonic() const override { return MonotonicTime() + now; }

    std::chrono::minutes now{100};
  };

  /// Machines are gone before what they run on.
  ~Keeper() {
    clock.now += std::chrono::hours(1);
    kept.tidy();
  }

  World world;
  MovedClock clock;
  build::KeptMachines kept{clock, {2, std::chrono::minutes(30)}};
  Daemon daemon{world, failing, {}, &kept};

  /// The number of a build that fails.
  std::int64_t fail(const std::string& name, bool keep = true) {
    auto request = request_for(world.alice, name);
    request.options.keep_failed = keep;
    const auto asker = daemon.complete(std::move(request));
    CHECK(asker->result().status == BuildStatus::PermanentFailure);
    log = asker->log();
    return world.db->builds(world.alice, 1).front().id;
  }

  [[nodiscard]] std::string state_of(std::int64_t build) {
    return code_of([&] { static_cast<void>(kept.visit(world.alice, build)); });
  }

  std::string log;
};

} // namespace

TEST_CASE("kept machines: a failure that was to be kept can be entered again and again",
          "[build]") {
  Keeper keeper;
  const auto build = keeper.fail("x");
  CHECK(keeper.log == "tried\n[nixbuild] the machine is kept for 30 minutes; to look around in it: "
                      "ssh -t HOST nixbuild shell " +
                          std::to_string(build) + "\n");
  CHECK(keeper.world.logs->read(build, 0, 1000) == keeper.log);
  const auto& run = *keeper.world.host->machines.begin()->second;
  for (int i = 0; i < 2; ++i) {
    auto visit = keeper.kept.visit(keeper.world.alice, build);
    CHECK(keeper.state_of(build) == "kept.busy");
    static_cast<void>(visit.execution());
  }
  CHECK(keeper.state_of(build) == "none");
  CHECK_FALSE(run.cancelled);
  CHECK(code_of([&] { static_cast<void>(keeper.kept.visit(keeper.world.bob, build)); }) ==
        "kept.none");
  // Whoever finds it broken closes it.
  keeper.kept.visit(keeper.world.alice, build).close();
  CHECK(keeper.state_of(build) == "kept.none");
  CHECK(keeper.kept.count() == 0);
}

TEST_CASE("kept machines: the oldest one makes room, unless somebody is in it", "[build]") {
  Keeper keeper;
  const auto one = keeper.fail("one");
  const auto two = keeper.fail("two");
  const auto three = keeper.fail("three");
  CHECK(keeper.state_of(one) == "kept.none");
  CHECK(keeper.state_of(two) == "none");
  CHECK(keeper.world.host->machines.size() == 2);
  {
    const auto in_two = keeper.kept.visit(keeper.world.alice, two);
    const auto in_three = keeper.kept.visit(keeper.world.alice, three);
    const auto four = keeper.fail("four");
    CHECK(keeper.log.find("the machine is not kept") != std::string::npos);
    CHECK(keeper.state_of(four) == "kept.none");
    CHECK(keeper.world.host->machines.size() == 2);
    keeper.clock.now += std::chrono::minutes(31);
    keeper.kept.tidy();
    CHECK(keeper.kept.count() == 2);
  }
  keeper.kept.tidy();
  CHECK(keeper.kept.count() == 0);
  CHECK(keeper.world.host->machines.empty());
}

TEST_CASE("kept machines: only a builder that has failed, and only where that was wanted",
          "[build]") {
  Keeper keeper;
  keeper.fail("unwanted", false);
  CHECK(keeper.log == "tried\n");
  CHECK(keeper.kept.count() == 0);
  CHECK(keeper.world.host->machines.empty());
  auto builtin = request_for(keeper.world.alice, "builtin");
  builtin.derivation.builder = "builtin:buildenv";
  builtin.options.keep_failed = true;
  CHECK_FALSE(model::is_success(keeper.daemon.complete(std::move(builtin))->result().status));
  CHECK(keeper.kept.count() == 0);
  Daemon good(
      keeper.world,
      [](const sandbox::ExecutionPlan&) {
        FakeBuild build;
        build.nars.push_back(nar_of_file("made"));
        return build;
      },
      {},
      &keeper.kept);
  auto request = request_for(keeper.world.alice, "good");
  request.policy = build::BuildPolicy{};
  request.policy->keep_failed = true;
  CHECK(good.complete(std::move(request))->result().status == BuildStatus::Built);
  CHECK(keeper.kept.count() == 0);
}

} // namespace kept_machines_test
