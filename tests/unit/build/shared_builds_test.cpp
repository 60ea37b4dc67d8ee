#include "build_rig.hpp"

#include <catch2/catch.hpp>

namespace shared_builds_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using namespace std::chrono_literals;
using build::KeepRunning;
using model::BuildStatus;

namespace {

/// Says something, takes its time, says more, and makes the contents.
FakeExecutor::Script slow(std::chrono::milliseconds time, std::string contents = "made") {
  return [time, contents](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.log.push_back({"begin\n"});
    build.log.push_back({"end\n", time});
    build.nars.push_back(nar_of_file(contents));
    return build;
  };
}

build::BuildRequest
kept(build::BuildRequest request, KeepRunning keep, std::chrono::seconds grace = 0s) {
  request.policy->keep = keep;
  request.policy->grace = grace;
  return request;
}

bool says_begin(const std::shared_ptr<Asker>& asker) {
  return eventually([&] { return asker->log().find("begin\n") != std::string::npos; });
}

} // namespace

TEST_CASE("shared builds: two askers share one build and see its log from the first line",
          "[build]") {
  World world;
  Daemon daemon(world, slow(200ms));
  const auto first = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(first));
  const auto second = daemon.ask(request_for(world.alice, "x"));
  CHECK_FALSE(first->joined());
  CHECK(second->joined());
  CHECK(eventually([&] { return first->ended() && second->ended(); }));
  for (const auto& asker : {first, second}) {
    CHECK(asker->result().status == BuildStatus::Built);
    CHECK(asker->log() == "begin\nend\n");
    CHECK(asker->number() == 1);
  }
  CHECK(daemon.executor.runs().size() == 1);
  CHECK(world.db->open_builds().empty());
}

TEST_CASE("shared builds: one of two askers leaving never ends the build", "[build]") {
  World world;
  Daemon daemon(world, slow(300ms));
  const bool first_leaves = GENERATE(true, false);
  const auto first = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(first));
  const auto second = daemon.ask(request_for(world.alice, "x"));
  (first_leaves ? first : second)->leave();
  const auto& other = first_leaves ? second : first;
  CHECK(eventually([&] { return other->ended(); }));
  CHECK(other->result().status == BuildStatus::Built);
  CHECK(other->log() == "begin\nend\n");
  CHECK(daemon.executor.runs().size() == 1);
  CHECK_FALSE(daemon.executor.runs()[0]->cancelled);
}

TEST_CASE("shared builds: the last asker leaving ends a build that nobody keeps", "[build]") {
  World world;
  Daemon daemon(world, slow(10s));
  const auto first = daemon.ask(request_for(world.alice, "x"));
  const auto second = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(second));
  second->leave();
  first->leave();
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(daemon.executor.runs()[0]->cancelled);
  CHECK(world.db->builds(world.alice, 1)[0].status == BuildStatus::MiscFailure);
  // Whoever asks now gets a new one.
  const auto third = daemon.ask(request_for(world.alice, "x"));
  CHECK_FALSE(third->joined());
  CHECK(says_begin(third));
  CHECK(daemon.executor.runs().size() == 2);
}

TEST_CASE("shared builds: a kept build runs to its end and the result is there later", "[build]") {
  World world;
  Daemon daemon(world, slow(200ms));
  // The strongest choice of all askers counts, whoever leaves last.
  const bool keeper_leaves_first = GENERATE(true, false);
  const auto plain = daemon.ask(request_for(world.alice, "x"));
  const auto keeper = daemon.ask(kept(request_for(world.alice, "x"), KeepRunning::Keep));
  REQUIRE(says_begin(plain));
  (keeper_leaves_first ? keeper : plain)->leave();
  std::this_thread::sleep_for(20ms);
  (keeper_leaves_first ? plain : keeper)->leave();
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK_FALSE(daemon.executor.runs()[0]->cancelled);
  CHECK(daemon.contents(world.alice, path_named("x")) == "made");
  const auto back = daemon.complete(request_for(world.alice, "x"));
  CHECK(back->result().status == BuildStatus::AlreadyValid);
  CHECK(back->result().outputs.at("out").path == path_named("x"));
  CHECK(daemon.executor.runs().size() == 1);
}

TEST_CASE("shared builds: within the time of grace a returning asker finds its build", "[build]") {
  World world;
  Daemon daemon(world, slow(700ms));
  const auto first = daemon.ask(kept(request_for(world.alice, "x"), KeepRunning::Grace, 60s));
  REQUIRE(says_begin(first));
  first->leave();
  std::this_thread::sleep_for(100ms);
  const auto back = daemon.ask(request_for(world.alice, "x"));
  CHECK(back->joined());
  CHECK(eventually([&] { return back->ended(); }));
  CHECK(back->result().status == BuildStatus::Built);
  CHECK(back->log() == "begin\nend\n");
  CHECK(daemon.executor.runs().size() == 1);
}

TEST_CASE("shared builds: after the time of grace the build ends", "[build]") {
  World world;
  Daemon daemon(world, slow(20s));
  const auto first = daemon.ask(kept(request_for(world.alice, "x"), KeepRunning::Grace, 1s));
  REQUIRE(says_begin(first));
  first->leave();
  std::this_thread::sleep_for(500ms);
  CHECK(daemon.builds.running() == 1);
  // Coming and going begins the time anew.
  const auto second = daemon.ask(request_for(world.alice, "x"));
  second->leave();
  std::this_thread::sleep_for(700ms);
  CHECK(daemon.builds.running() == 1);
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(daemon.executor.runs()[0]->cancelled);
}

TEST_CASE("shared builds: other limits, accounts, derivations or input contents are other builds",
          "[build]") {
  World world;
  Daemon daemon(world, slow(500ms));
  daemon.add(world.alice, "in", "one");
  daemon.add(world.bob, "in", "one");
  const auto base = request_for(world.alice, "x", {path_named("in")});
  const auto first = daemon.ask(base);
  auto limited = base;
  limited.options.timeout = 100s;
  CHECK_FALSE(daemon.ask(limited)->joined());
  auto other = base;
  other.derivation.arguments = {"-x"};
  CHECK_FALSE(daemon.ask(other)->joined());
  CHECK_FALSE(daemon.ask(request_for(world.bob, "x", {path_named("in")}))->joined());
  CHECK(daemon.ask(base)->joined());
}

TEST_CASE("shared builds: a running build is found and ended by its number", "[build]") {
  World world;
  Daemon daemon(world, slow(20s));
  const auto first = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(first));
  CHECK_FALSE(daemon.builds.attach(world.bob, first->number()));
  CHECK_FALSE(daemon.builds.attach(world.alice, 77));
  CHECK(daemon.builds.attach(world.alice, first->number()));
  CHECK_FALSE(daemon.builds.cancel(world.bob, first->number()));
  CHECK(daemon.builds.cancel(world.alice, first->number()));
  CHECK(eventually([&] { return first->ended(); }));
  CHECK(first->failure().find("was cancelled") != std::string::npos);
  CHECK_FALSE(daemon.builds.cancel(world.alice, first->number()));
}

TEST_CASE("shared builds: who waits for capacity is told after a second, and then what it got",
          "[build]") {
  World world;
  build::BuilderSettings settings;
  settings.cpus = 2;
  Daemon daemon(world, slow(1500ms), settings);
  const auto first = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(first));
  const auto second = daemon.complete(request_for(world.alice, "y"));
  CHECK(second->log() == "[nixbuild] waiting: 2 cpus and 1024 MiB are not free\n"
                         "[nixbuild] building with 2 cpus and 1024 MiB of memory (fake)\n"
                         "begin\nend\n");
  CHECK(world.log_of(second->number()) == second->log());
  CHECK(world.db->build(world.alice, second->number())->log_bytes == second->log().size());
}

} // namespace shared_builds_test
