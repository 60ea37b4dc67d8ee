#include "build_rig.hpp"

#include <catch2/catch.hpp>

#include <utility>

namespace restart_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using model::BuildStatus;

namespace {

/// Runs out of memory below `needed`.
FakeExecutor::Script hungry(std::uint64_t needed) {
  return [needed](const sandbox::ExecutionPlan& plan) {
    FakeBuild build;
    build.log.push_back({"working"});
    if (plan.memory_bytes < needed) {
      build.exit.end = sandbox::GuestEnd::OutOfMemory;
      build.exit.code = 9;
      build.exit.peak_memory_bytes = plan.memory_bytes;
    } else {
      build.nars.push_back(nar_of_file("made"));
    }
    return build;
  };
}

/// The machine dies this many times.
FakeExecutor::Script dying(unsigned times) {
  auto left = std::make_shared<unsigned>(times);
  return [left](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.log.push_back({"working\n"});
    build.nars.push_back(nar_of_file("made"));
    if (*left > 0) {
      --*left;
      build.lost = "it went\ndown";
    }
    return build;
  };
}

build::BuilderSettings up_to(std::uint64_t bytes) {
  build::BuilderSettings settings;
  settings.memory_bytes = kGiB;
  settings.max_memory_bytes = bytes;
  return settings;
}

} // namespace

TEST_CASE("restarts: out of memory, a larger machine takes over and the log says so", "[build]") {
  World world;
  Daemon daemon(world, hungry(2 * kGiB), up_to(3 * kGiB));
  const auto asker = daemon.complete(request_for(world.alice, "x"));
  CHECK(asker->result().status == BuildStatus::Built);
  CHECK(asker->log() == "working\n"
                        "[nixbuild] out of memory with 1024 MiB: starting again with more\n"
                        "[nixbuild] building with 1 cpu and 2048 MiB of memory (fake)\n"
                        "working");
  REQUIRE(daemon.executor.runs().size() == 2);
  CHECK(daemon.executor.runs()[0]->id == "1-1");
  CHECK(daemon.executor.runs()[1]->id == "1-2");
  const auto record = world.db->build(world.alice, 1);
  REQUIRE(record);
  CHECK(record->attempt == 2);
  CHECK(record->memory_bytes == 2 * kGiB);
  CHECK(record->peak_memory_bytes == kGiB);
  CHECK(record->log_bytes == asker->log().size());
}

TEST_CASE("restarts: a build is enlarged once, and the next one begins there", "[build]") {
  World world;
  Daemon daemon(world, hungry(3 * kGiB), up_to(64 * kGiB));
  const auto first = daemon.complete(request_for(world.alice, "x"));
  CHECK(first->result().status == BuildStatus::PermanentFailure);
  CHECK(first->result().error.find("its machine has 2048 MiB (settings min-mem, max-mem)") !=
        std::string::npos);
  REQUIRE(daemon.executor.runs().size() == 2);
  CHECK(daemon.complete(request_for(world.alice, "x"))->result().status == BuildStatus::Built);
  REQUIRE(daemon.executor.runs().size() == 4);
  CHECK(daemon.executor.runs()[2]->memory_bytes == 2 * kGiB);
  CHECK(daemon.executor.runs()[3]->memory_bytes == 4 * kGiB);
}

TEST_CASE("restarts: at the largest size out of memory is told, and never reused", "[build]") {
  World world;
  Daemon daemon(world, hungry(64 * kGiB), up_to(2 * kGiB));
  auto request = request_for(world.alice, "x");
  request.policy->reuse_failures = true;
  for (unsigned round = 1; round <= 2; ++round) {
    const auto asker = daemon.complete(request);
    CHECK(asker->result().status == BuildStatus::PermanentFailure);
    CHECK(asker->result().error.find("ran out of memory: its machine has 2048 MiB") !=
          std::string::npos);
    // The second time it gets the larger machine at once.
    CHECK(daemon.executor.runs().size() == 1 + round);
  }
}

TEST_CASE("restarts: a full disk is told with its setting, not cured by memory", "[build]") {
  World world;
  bool in_memory = false;
  const auto writing = [&in_memory](const sandbox::ExecutionPlan& plan) {
    FakeBuild build;
    build.exit.scratch_in_memory = in_memory;
    build.exit.scratch_bytes = in_memory ? plan.memory_bytes / 2 : plan.scratch_bytes / 100 * 97;
    build.exit.disk_bytes = build.exit.scratch_bytes;
    build.exit.disk_full = true;
    build.exit.code = 1;
    return build;
  };
  Daemon daemon(world, writing, up_to(8 * kGiB));
  auto request = request_for(world.alice, "y");
  request.policy->reuse_failures = true;
  request.policy->disk_bytes = 10 * kGiB;
  const std::string lack = "failed with exit code 1\nnote: build failure may have been caused by "
                           "lack of free disk space: ";
  for (std::size_t round = 1; round <= 2; ++round) {
    const auto asker = daemon.complete(request);
    CHECK(asker->result().status == BuildStatus::TransientFailure);
    CHECK(asker->result().error.find(lack + "its scratch disk has 9932 MiB (setting disk)") !=
          std::string::npos);
    CHECK(asker->log().find("failed before") == std::string::npos);
    REQUIRE(daemon.executor.runs().size() == round);
    CHECK(daemon.executor.runs().back()->scratch_bytes == 10 * kGiB);
    CHECK(world.db->build(world.alice, asker->number())->disk_bytes > 9 * kGiB);
  }
  in_memory = true;
  request.policy->disk_bytes = 0;
  const auto asker = daemon.complete(request);
  CHECK(asker->result().error.find(lack + "its files lie in half of the machine's 1024 MiB of "
                                          "memory (setting disk is 0)") != std::string::npos);
  CHECK(daemon.executor.runs().size() == 3);
}

TEST_CASE("restarts: a machine that is ended for its log is not lost", "[build]") {
  World world;
  const auto flooding = [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.lost = "the log exceeds 5 bytes";
    build.lost_code = "sandbox.log-limit";
    return build;
  };
  Daemon daemon(world, flooding, up_to(kGiB));
  const auto asker = daemon.complete(request_for(world.alice, "x"));
  CHECK(asker->result().status == BuildStatus::LogLimitExceeded);
  CHECK(asker->result().error.find("bytes of log output") != std::string::npos);
  CHECK(daemon.executor.runs().size() == 1);
}

TEST_CASE("restarts: the asker's policy bounds the memory, too", "[build]") {
  World world;
  Daemon daemon(world, hungry(3 * kGiB), up_to(4 * kGiB));
  auto request = request_for(world.alice, "x");
  request.policy->max_memory_bytes = kGiB + 512 * kMiB;
  const auto asker = daemon.complete(request);
  CHECK(asker->result().error.find("its machine has 1536 MiB") != std::string::npos);
}

TEST_CASE("restarts: a lost machine is replaced", "[build]") {
  World world;
  Daemon daemon(world, dying(2));
  const auto asker = daemon.complete(request_for(world.alice, "x"));
  CHECK(asker->result().status == BuildStatus::Built);
  CHECK(asker->log().find("working\n[nixbuild] the machine was lost: starting again on another one "
                          "(it went down)\n[nixbuild] building with") == 0);
  CHECK(daemon.executor.runs().size() == 3);
  CHECK(world.db->build(world.alice, 1)->attempt == 3);
}

TEST_CASE("restarts: machines are lost only so often, and that is not reused", "[build]") {
  World world;
  Daemon daemon(world, dying(4));
  auto request = request_for(world.alice, "x");
  request.policy->reuse_failures = true;
  request.policy->max_restarts = 1;
  const auto asker = daemon.complete(request);
  CHECK(asker->result().status == BuildStatus::TransientFailure);
  CHECK(asker->result().error.find("was lost 2 times: it went\ndown") != std::string::npos);
  CHECK(daemon.executor.runs().size() == 2);
  request.policy->max_restarts = 2;
  CHECK(daemon.complete(request)->result().status == BuildStatus::Built);
}

TEST_CASE("restarts: a fault of the host is tried once, and is no fault of the build", "[build]") {
  const auto no_device = [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.lost = "mounting erofs:\nNo such device";
    build.lost_code = "sandbox.host";
    return build;
  };
  const auto no_emulator = [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.no_start = "mounting erofs:\nNo such device";
    return build;
  };
  for (const auto& script : {FakeExecutor::Script(no_device), FakeExecutor::Script(no_emulator)}) {
    World world;
    world.host->verdict.use = sandbox::HostVerdict::Use::Nothing;
    Daemon daemon(world, script);
    auto request = request_for(world.alice, "x");
    request.policy->reuse_failures = true;
    for (std::size_t round = 1; round <= 2; ++round) {
      const auto asker = daemon.complete(request);
      CHECK(asker->result().status == BuildStatus::TransientFailure);
      CHECK(asker->result().error.starts_with("the virtual machine of '"));
      CHECK(asker->result().error.ends_with("could not run on this host, which is no fault of the "
                                            "build: mounting erofs: No such device"));
      CHECK(daemon.executor.runs().size() == round);
      CHECK(world.host->faults.size() == round);
    }
  }
}

TEST_CASE("restarts: without KVM the build goes on under emulation, at once", "[build]") {
  World world;
  world.host->verdict.use = sandbox::HostVerdict::Use::Emulation;
  auto refused = std::make_shared<bool>(false);
  Daemon daemon(world, [refused](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.nars.push_back(nar_of_file("made"));
    if (!std::exchange(*refused, true)) {
      build.lost = "Could not access KVM kernel module: Permission denied";
      build.lost_code = "sandbox.host";
    }
    return build;
  });
  const auto asker = daemon.complete(request_for(world.alice, "x"));
  CHECK(asker->result().status == BuildStatus::Built);
  CHECK(asker->log().find("[nixbuild] KVM cannot be used here any more: starting again under "
                          "software emulation, which is slow and no security boundary (Could not "
                          "access KVM kernel module: Permission denied)\n") == 0);
  CHECK(daemon.executor.runs().size() == 2);
  CHECK(world.db->build(world.alice, 1)->attempt == 2);
}

TEST_CASE("restarts: leaving between two machines ends the build", "[build]") {
  World world;
  Daemon daemon(world, dying(1'000'000));
  auto request = request_for(world.alice, "x");
  request.policy->max_restarts = 1'000'000;
  const auto asker = daemon.ask(request);
  REQUIRE(eventually([&] {
    const auto record = daemon.world.db->build(world.alice, 1);
    return record && record->attempt > 3;
  }));
  asker->leave();
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
}

TEST_CASE("restarts: a builder that cannot be executed fails by itself, its log says why",
          "[build]") {
  World world;
  const auto request = request_for(world.alice, "x");
  const auto because = "executing '" + request.derivation.builder + "': No such file or directory";
  Daemon daemon(world, [&](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.exit.end = sandbox::GuestEnd::SetupFailed;
    build.exit.code = 1;
    build.exit.message = because;
    return build;
  });
  const auto asker = daemon.complete(request);
  CHECK(asker->result().status == BuildStatus::PermanentFailure);
  CHECK(asker->result().error.ends_with("failed with exit code 1"));
  CHECK(asker->log() == "error: " + because + "\n");
  CHECK(daemon.executor.runs().size() == 1);
}

TEST_CASE("restarts: a machine that cannot be prepared is not the builder's failure", "[build]") {
  World world;
  Daemon daemon(world, [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.exit.end = sandbox::GuestEnd::SetupFailed;
    build.exit.message = "mounting: executing '/bin/sh'";
    return build;
  });
  const auto asker = daemon.complete(request_for(world.alice, "x"));
  CHECK(asker->result().status == BuildStatus::MiscFailure);
  CHECK(asker->log().empty());
}

} // namespace restart_test
