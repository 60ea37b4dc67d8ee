#include "admin_rig.hpp"

#include <nixbuild/build/kept_machines.hpp>

#include <catch2/catch.hpp>

namespace admin_enter_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using test::Fixture;

namespace {

aio::Task<void> start_machine(FakeExecutor& executor, std::unique_ptr<sandbox::Execution>& out) {
  sandbox::ExecutionPlan plan;
  plan.id = "1-1";
  out = co_await executor.start(std::move(plan));
}

/// A build that failed, with its machine.
struct Kept : Fixture {
  FakeExecutor machines{io.get_executor(), [](const auto&) {
                          FakeBuild build;
                          build.has_terminal = true;
                          return build;
                        }};
  build::KeptMachines kept{clock, {1, std::chrono::minutes(30)}};
  std::string id;

  Kept() {
    parts.kept = &kept;
    const auto build = add_build("x.drv", model::BuildStatus::PermanentFailure);
    id = std::to_string(build);
    std::unique_ptr<sandbox::Execution> machine;
    test::run_task(io, start_machine(machines, machine));
    REQUIRE(kept.keep(account, build, machine));
  }
};

} // namespace

TEST_CASE("shell: what is typed goes into the machine, and what its shell writes comes out",
          "[server]") {
  Kept fixture;
  const auto first = fixture.feed("ls\nexit\n", {"shell", fixture.id}, false);
  CHECK(first.status == 0);
  CHECK(first.out == "$ ls\nexit\n");
  CHECK(first.err.empty());
  // It is there for the next one; the end of the input ends the shell.
  const auto second = fixture.feed("ls\n", {"shell", fixture.id}, true);
  CHECK(second.status == 0);
  CHECK(second.out == "$ ls\n\x04");
  CHECK(fixture.kept.count() == 1);
  CHECK_FALSE(fixture.machines.runs().front()->cancelled);
}

TEST_CASE("shell: no machine, no shell", "[server][reject]") {
  Kept fixture;
  CHECK(fixture.feed("", {"shell"}, false).status == 2);
  CHECK(fixture.feed("", {"shell", "99"}, false).err.find("no build") != std::string::npos);
  const auto other = fixture.add_build("y.drv", model::BuildStatus::PermanentFailure);
  const auto gone = fixture.feed("", {"shell", std::to_string(other)}, false);
  CHECK(gone.status == 4);
  CHECK(gone.err.find("kept for 30 minutes") != std::string::npos);
  // Not within a shell of commands, whose input these are.
  CHECK(fixture.feed("shell " + fixture.id + "\n", {"shell"}, true).status == 2);
  {
    const auto visit = fixture.kept.visit(fixture.account, std::stoll(fixture.id));
    CHECK(fixture.feed("", {"shell", fixture.id}, false).err.find("somebody is in") !=
          std::string::npos);
  }
  fixture.kept.visit(fixture.account, std::stoll(fixture.id)).close();
  CHECK(fixture.feed("", {"shell", fixture.id}, false).status == 4);
}

TEST_CASE("shell: a machine that is lost is closed", "[server][fault]") {
  Kept fixture;
  {
    auto visit = fixture.kept.visit(fixture.account, std::stoll(fixture.id));
    visit.execution().cancel();
  }
  CHECK(fixture.feed("ls\n", {"shell", fixture.id}, false).status != 0);
  CHECK(fixture.kept.count() == 0);
}

} // namespace admin_enter_test
