#include "build_rig.hpp"

#include <catch2/catch.hpp>

namespace adoption_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using namespace std::chrono_literals;
using build::KeepRunning;
using model::BuildStatus;

namespace {

FakeExecutor::Script slow(std::chrono::milliseconds time) {
  return [time](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.log.push_back({"begin\n"});
    build.log.push_back({"end\n", time});
    build.nars.push_back(nar_of_file("made"));
    return build;
  };
}

FakeExecutor::Script never() {
  return [](const sandbox::ExecutionPlan&) -> FakeBuild {
    FAIL("a second machine was started");
    return {};
  };
}

build::BuildRequest kept(build::BuildRequest request) {
  request.policy->keep = KeepRunning::Keep;
  return request;
}

bool says_begin(const std::shared_ptr<Asker>& asker) {
  return eventually([&] { return asker->log().find("begin\n") != std::string::npos; });
}

/// Starts a build of "x" and lets the daemon end while it runs.
void leave_one_running(World& world, bool killed, std::chrono::milliseconds time) {
  auto& daemon = mortal(world, slow(time));
  daemon.add(world.alice, "in", "one");
  const auto asker = daemon.ask(request_for(world.alice, "x", {path_named("in")}));
  REQUIRE(says_begin(asker));
  killed ? daemon.kill() : daemon.end();
}

} // namespace

TEST_CASE("adoption: a daemon's death or end loses no running build", "[build]") {
  World world;
  const bool killed = GENERATE(true, false);
  leave_one_running(world, killed, 300ms);
  REQUIRE(world.host->machines.size() == 1);
  const auto run = world.host->machines.begin()->second;
  CHECK_FALSE(run->cancelled);
  REQUIRE(world.db->open_builds().size() == 1);
  Daemon daemon(world, never());
  const auto asker = daemon.ask(request_for(world.alice, "x", {path_named("in")}));
  CHECK(asker->joined());
  CHECK(eventually([&] { return asker->ended(); }));
  CHECK(asker->result().status == BuildStatus::Built);
  CHECK(asker->log() == "begin\nend\n");
  CHECK(asker->number() == 1);
  CHECK(world.log_of(1) == "begin\nend\n");
  CHECK(run->adopted == 1);
  CHECK(run->finished);
  CHECK(daemon.contents(world.alice, path_named("x")) == "made");
  CHECK(world.db->builds(world.alice, 10).size() == 1);
  CHECK(world.db->build(world.alice, 1)->status == BuildStatus::Built);
  CHECK(world.db->build(world.alice, 1)->attempt == 1);
  CHECK(world.db->open_builds().empty());
}

TEST_CASE("adoption: it works again and again", "[build]") {
  World world;
  leave_one_running(world, true, 400ms);
  for (int i = 0; i < 3; ++i) {
    auto& daemon = mortal(world, never());
    std::this_thread::sleep_for(20ms);
    daemon.kill();
  }
  Daemon daemon(world, never());
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  // Nobody came back in time, and yet the result is there.
  CHECK(daemon.complete(request_for(world.alice, "x", {path_named("in")}))->result().status ==
        BuildStatus::AlreadyValid);
  CHECK(world.log_of(1) == "begin\nend\n");
}

TEST_CASE("adoption: the next daemon ends a build that nobody comes back for", "[build]") {
  World world;
  leave_one_running(world, true, 60s);
  const auto run = world.host->machines.begin()->second;
  Daemon daemon(world, never());
  build::SharedBuildsSettings settings;
  CHECK(settings.return_grace == 600s);
  CHECK(daemon.builds.running() == 1);
  CHECK(daemon.builds.cancel(world.alice, 1));
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(run->cancelled);
  CHECK(world.db->open_builds().empty());
}

TEST_CASE("adoption: a machine that is gone is replaced for a build that is kept or asked for",
          "[build]") {
  World world;
  enum class Case { Kept, AskedFor, Nobody };
  const auto which = GENERATE(Case::Kept, Case::AskedFor, Case::Nobody);
  world.return_grace = which == Case::Nobody ? 1s : 600s;
  const auto request = request_for(world.alice, "x");
  {
    auto& daemon = mortal(world, slow(60s));
    const auto asker = daemon.ask(which == Case::Kept ? kept(request) : request);
    REQUIRE(says_begin(asker));
    daemon.kill();
  }
  world.host->machines.clear();
  Daemon daemon(world, slow(10ms));
  if (which == Case::AskedFor) {
    CHECK(daemon.builds.running() == 1);
    CHECK(daemon.executor.runs().empty());
    const auto asker = daemon.complete(request);
    CHECK(asker->number() == 1);
    CHECK(asker->joined());
  }
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  const auto record = world.db->build(world.alice, 1);
  if (which == Case::Nobody) {
    CHECK(record->status == BuildStatus::TransientFailure);
    CHECK(record->error.find("ended with its machine, and nobody came back") != std::string::npos);
    CHECK(daemon.executor.runs().empty());
  } else {
    CHECK(record->status == BuildStatus::Built);
    CHECK(record->attempt == 2);
    CHECK(world.log_of(1) == "begin\n"
                             "[nixbuild] building with 1 cpu and 1024 MiB of memory (fake)\n"
                             "begin\nend\n");
    CHECK(daemon.executor.runs().at(0)->id == "1-2");
  }
  CHECK(world.db->open_builds().empty());
}

TEST_CASE("adoption: waiting builds are queued again", "[build]") {
  World world;
  build::BuilderSettings settings;
  settings.cpus = 2;
  {
    auto& daemon = mortal(world, slow(60s), settings);
    const auto running = daemon.ask(kept(request_for(world.alice, "x")));
    REQUIRE(says_begin(running));
    const auto waiting = daemon.ask(kept(request_for(world.alice, "y")));
    const auto cut_off = daemon.ask(request_for(world.alice, "z"));
    const auto gone = daemon.ask(request_for(world.alice, "w"));
    REQUIRE(eventually([&] { return world.db->open_builds().size() == 4; }));
    daemon.kill();
  }
  world.host->machines.clear();
  {
    // What is kept runs by itself; what is not waits for its client.
    Daemon daemon(world, slow(10ms), settings);
    CHECK(eventually([&] { return daemon.builds.running() == 2; }));
    CHECK(world.db->build(world.alice, 1)->status == BuildStatus::Built);
    CHECK(world.db->build(world.alice, 2)->status == BuildStatus::Built);
    CHECK(world.db->build(world.alice, 2)->attempt == 1);
    const auto back = daemon.complete(request_for(world.alice, "z"));
    CHECK(back->number() == 3);
    CHECK(back->result().status == BuildStatus::Built);
  }
  // It waits through the orderly end of a daemon, too, until its time of grace is over.
  CHECK(world.db->open_builds().size() == 1);
  world.return_grace = 1s;
  Daemon daemon(world, slow(10ms), settings);
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(world.db->build(world.alice, 4)->status == BuildStatus::TransientFailure);
  CHECK(world.db->build(world.alice, 4)->error.find("while it waited, and nobody came back") !=
        std::string::npos);
}

TEST_CASE("adoption: what was registered already is not registered twice", "[build]") {
  World world;
  leave_one_running(world, true, 60s);
  const auto run = world.host->machines.begin()->second;
  auto& other = mortal(world, never());
  other.kill();
  {
    // As if the daemon had died between the registration and the end of its record.
    RigClock clock;
    store::Store store(*world.db, *world.segments, clock, model::StoreDir());
    store::ImportRequest request{path_named("x"), {}, {}, {}, {}, 0, false, {}, {}, {}};
    auto import = store.begin_import(world.alice, std::move(request));
    import.feed(bytes_of(nar_of_file("made before")));
    const auto info = import.seal();
    store.commit(world.alice, {&info, 1});
  }
  Daemon daemon(world, never());
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(daemon.contents(world.alice, path_named("x")) == "made before");
  CHECK(world.db->build(world.alice, 1)->status == BuildStatus::AlreadyValid);
  CHECK(run->finished);
}

TEST_CASE("adoption: a machine of an old attempt registers nothing", "[build][fault]") {
  World world;
  Daemon daemon(world, slow(200ms));
  const auto asker = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(asker));
  auto record = *world.db->build(world.alice, 1);
  record.attempt = 2;
  REQUIRE(world.db->begin_attempt(record, "1-2", 0));
  CHECK(eventually([&] { return asker->ended(); }));
  CHECK(asker->result().status == BuildStatus::MiscFailure);
  CHECK(asker->result().error.find("attempt 1 of build 1 is not the newest one") !=
        std::string::npos);
  CHECK(world.db->all_paths(world.alice).empty());
  CHECK(world.db->open_builds().size() == 1);
}

TEST_CASE("adoption: a record that cannot be read is ended, and others are taken up", "[build]") {
  World world;
  leave_one_running(world, true, 100ms);
  store::BuildRecord record;
  record.account = world.alice;
  record.id = world.db->open_build(record, "nonsense");
  Daemon daemon(world, never());
  CHECK(world.db->build(world.alice, record.id)->status == BuildStatus::TransientFailure);
  CHECK(world.db->build(world.alice, record.id)->error.find("cannot be read") != std::string::npos);
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(world.db->build(world.alice, 1)->status == BuildStatus::Built);
}

TEST_CASE("adoption: where the executor cannot say, the build stays open for a later daemon",
          "[build][fault]") {
  World world;
  leave_one_running(world, true, 100ms);
  world.host->adopting_fails = true;
  {
    Daemon daemon(world, never());
    CHECK(eventually([&] { return daemon.builds.running() == 0; }));
    CHECK(world.db->open_builds().size() == 1);
  }
  world.host->adopting_fails = false;
  Daemon daemon(world, never());
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(world.db->build(world.alice, 1)->status == BuildStatus::Built);
  CHECK(world.log_of(1) == "begin\nend\n");
}

TEST_CASE("adoption: limits of time count from the machine's start", "[build]") {
  World world;
  {
    auto& daemon = mortal(world, slow(60s));
    auto request = request_for(world.alice, "x");
    request.options.timeout = 1s;
    const auto asker = daemon.ask(request);
    REQUIRE(says_begin(asker));
    daemon.kill();
  }
  Daemon daemon(world, never());
  CHECK(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(world.db->build(world.alice, 1)->status == BuildStatus::TimedOut);
}

TEST_CASE("adoption: a clock that was set meanwhile ends nothing and books nothing", "[build]") {
  World world;
  world.hours_ahead = 100;
  auto request = request_for(world.alice, "x");
  request.options.timeout = 60s;
  {
    auto& daemon = mortal(world, slow(700ms));
    const auto asker = daemon.ask(request);
    REQUIRE(says_begin(asker));
    daemon.kill();
  }
  world.hours_ahead += GENERATE(24, -24, 0);
  Daemon daemon(world, never());
  const auto asker = daemon.ask(request);
  REQUIRE(eventually([&] { return daemon.builds.running_since(world.alice, 1).has_value(); }));
  CHECK(daemon.clock.monotonic() - *daemon.builds.running_since(world.alice, 1) < 5s);
  CHECK(eventually([&] { return asker->ended(); }));
  CHECK(asker->result().status == BuildStatus::Built);
  const auto record = world.db->build(world.alice, 1);
  const auto took = record->stopped_us - record->started_us;
  CHECK(took >= 500'000);
  CHECK(took < 20'000'000);
  CHECK(world.db->cpu_time_us(world.alice, 0) == static_cast<std::uint64_t>(took) * record->cpus);
}

TEST_CASE("adoption: a clock that is set while a build runs changes nothing of its record",
          "[build]") {
  World world;
  Daemon daemon(world, slow(400ms));
  const auto asker = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(says_begin(asker));
  daemon.clock.ahead = GENERATE(24, -24);
  CHECK(eventually([&] { return asker->ended(); }));
  const auto record = world.db->build(world.alice, 1);
  const auto took = record->stopped_us - record->started_us;
  CHECK(took >= 300'000);
  CHECK(took < 20'000'000);
}

TEST_CASE("adoption: the time that a build may take goes on while its outputs are taken",
          "[build]") {
  World world;
  const auto slow_output = [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.nars.push_back(nar_of_file(std::string(10'000, 'x')));
    build.nar_piece = 1;
    build.before_nar_piece = 20ms;
    return build;
  };
  Daemon daemon(world, slow_output);
  auto request = request_for(world.alice, "x");
  request.options.timeout = 1s;
  const auto asker = daemon.complete(request);
  CHECK(asker->result().status == BuildStatus::TimedOut);
  CHECK(asker->result().error.find("timed out after 1 seconds") != std::string::npos);
  CHECK(world.db->build(world.alice, 1)->attempt == 1);
}

TEST_CASE("adoption: a machine that dribbles its output is not waited for", "[build]") {
  World world;
  build::BuilderSettings settings;
  settings.output_floor_time = 300ms;
  const bool dribbles = GENERATE(true, false);
  const auto script = [dribbles](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.nars.push_back(nar_of_file(std::string(200'000, 'x')));
    build.nar_piece = dribbles ? 1 : 20'000;
    build.before_nar_piece = 50ms;
    return build;
  };
  Daemon daemon(world, script, settings);
  const auto asker = daemon.complete(request_for(world.alice, "x"));
  if (dribbles) {
    CHECK(asker->result().status == BuildStatus::TimedOut);
    CHECK(asker->result().error.find("gives its output 'out' at less than 65536 bytes a second") !=
          std::string::npos);
    CHECK(world.db->build(world.alice, 1)->attempt == 1);
  } else {
    CHECK(asker->result().status == BuildStatus::Built);
  }
}

} // namespace adoption_test
