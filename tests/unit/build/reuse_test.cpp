#include "build_rig.hpp"

#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>
#include <fmt/format.h>

namespace reuse_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using namespace std::chrono_literals;
using model::BuildStatus;

namespace {

/// Fails with what it read: the script stands for a builder that copies its input.
FakeExecutor::Script failing(int code = 3) {
  return [code](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.log.push_back({"this is why\n"});
    build.exit.code = code;
    return build;
  };
}

/// Each build makes something else.
FakeExecutor::Script counting() {
  auto count = std::make_shared<int>(0);
  return [count](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.nars.push_back(nar_of_file(fmt::format("made {}", ++*count)));
    return build;
  };
}

build::BuildRequest sharing(build::BuildRequest request) {
  request.policy->share_results = true;
  return request;
}

} // namespace

TEST_CASE("reuse: a builder's failure is told again with its log where that is wanted", "[build]") {
  World world;
  Daemon daemon(world, failing());
  auto request = request_for(world.alice, "x");
  const auto first = daemon.complete(request);
  CHECK(first->result().status == BuildStatus::PermanentFailure);
  request.policy->reuse_failures = true;
  const auto again = daemon.complete(request);
  CHECK(again->result().status == BuildStatus::PermanentFailure);
  CHECK(again->result().error == first->result().error);
  CHECK(again->log() == "[nixbuild] this failed before, as build 1, and is not tried again; its "
                        "log:\nthis is why\n");
  CHECK(daemon.executor.runs().size() == 1);
  const auto record = world.db->build(world.alice, again->number());
  CHECK(record->reused == 1);
  CHECK(record->attempt == 0);
  CHECK(record->status == BuildStatus::PermanentFailure);
  // Told once more, it still points at the build that failed.
  CHECK(daemon.complete(request)->log() == again->log());
  request.policy->reuse_failures = false;
  daemon.complete(request);
  CHECK(daemon.executor.runs().size() == 2);
}

TEST_CASE("reuse: failures of others, of other inputs and of fixed outputs are not told again",
          "[build]") {
  World world;
  Daemon daemon(world, failing());
  const auto in = daemon.add(world.alice, "in", "one");
  auto request = sharing(request_for(world.alice, "x", {in}));
  request.policy->reuse_failures = true;
  daemon.complete(request);
  daemon.add(world.bob, "in", "one");
  auto of_bob = request;
  of_bob.account = world.bob;
  daemon.complete(of_bob);
  CHECK(daemon.executor.runs().size() == 2);
  // The same name with other contents is another input.
  world.db->remove_paths(world.alice, {&in, 1});
  daemon.add(world.alice, "in", "two");
  daemon.complete(request);
  CHECK(daemon.executor.runs().size() == 3);

  auto fixed = request_for(world.alice, "f");
  fixed.policy->reuse_failures = true;
  fixed.derivation.outputs["out"].method_algorithm = "sha256";
  fixed.derivation.outputs["out"].hash = std::string(64, '0');
  daemon.complete(fixed);
  daemon.complete(fixed);
  CHECK(daemon.executor.runs().size() == 5);
}

TEST_CASE("reuse: a timeout is told again to those who allow no more", "[build]") {
  World world;
  Daemon daemon(world, [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.before_exit = 30s;
    return build;
  });
  auto request = request_for(world.alice, "x");
  request.options.timeout = 2s;
  const auto first = daemon.complete(request);
  CHECK(first->result().status == BuildStatus::TimedOut);
  request.policy->reuse_failures = true;
  daemon.complete(request);
  CHECK(daemon.executor.runs().size() == 2);
  request.policy->reuse_timeouts = true;
  CHECK(daemon.complete(request)->result().error == first->result().error);
  request.options.timeout = 1s;
  CHECK(daemon.complete(request)->result().status == BuildStatus::TimedOut);
  CHECK(daemon.executor.runs().size() == 2);
  request.options.timeout = 3s;
  daemon.complete(request);
  CHECK(daemon.executor.runs().size() == 3);
  // Silence is another limit than time.
  request.options.timeout = 0s;
  request.options.max_silent_time = 1s;
  daemon.complete(request);
  CHECK(daemon.executor.runs().size() == 4);
  daemon.complete(request);
  CHECK(daemon.executor.runs().size() == 4);
}

TEST_CASE("reuse: cancelled builds and broken outputs are not told again", "[build]") {
  World world;
  Daemon daemon(world, [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.before_exit = 50ms;
    build.nars.push_back("");
    return build;
  });
  auto request = request_for(world.alice, "x");
  request.policy->reuse_failures = true;
  const auto first = daemon.ask(request);
  first->leave();
  REQUIRE(eventually([&] { return daemon.builds.running() == 0; }));
  CHECK(daemon.complete(request)->result().status == BuildStatus::OutputRejected);
  CHECK(daemon.complete(request)->result().status == BuildStatus::OutputRejected);
  CHECK(daemon.executor.runs().size() == 3);
}

TEST_CASE("reuse: across accounts a result is used where both share and all inputs are equal",
          "[build]") {
  World world;
  Daemon daemon(world, counting());
  const auto in = daemon.add(world.alice, "in", "one");
  daemon.add(world.bob, "in", "one");
  const auto of_alice = daemon.complete(sharing(request_for(world.alice, "x", {in})));
  CHECK(of_alice->result().status == BuildStatus::Built);
  const auto of_bob = daemon.complete(sharing(request_for(world.bob, "x", {in})));
  CHECK(of_bob->result().status == BuildStatus::AlreadyValid);
  CHECK(of_bob->log() ==
        "[nixbuild] built before on this server from the same inputs: that result is used\n");
  CHECK(daemon.executor.runs().size() == 1);
  CHECK(daemon.contents(world.bob, path_named("x")) == "made 1");
  const auto info = world.db->path_info(world.bob, path_named("x"));
  CHECK(info->ultimate);
  CHECK(info->deriver == path_named("x.drv"));
  const auto record = world.db->build(world.bob, of_bob->number());
  CHECK(record->of_another);
  CHECK(record->reused == 0);
  CHECK_FALSE(world.db->build(world.bob, of_alice->number()));
}

TEST_CASE("reuse: without both accounts' will each builds for itself", "[build]") {
  World world;
  Daemon daemon(world, counting());
  const bool alice_shares = GENERATE(true, false);
  auto of_alice = request_for(world.alice, "x");
  of_alice.policy->share_results = alice_shares;
  auto of_bob = request_for(world.bob, "x");
  of_bob.policy->share_results = !alice_shares;
  daemon.complete(of_alice);
  CHECK(daemon.complete(of_bob)->result().status == BuildStatus::Built);
  CHECK(daemon.contents(world.alice, path_named("x")) == "made 1");
  CHECK(daemon.contents(world.bob, path_named("x")) == "made 2");
}

TEST_CASE("reuse: one asker who does not share keeps the whole build private", "[build]") {
  World world;
  Daemon daemon(world, [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.before_exit = 100ms;
    build.nars.push_back(nar_of_file("made"));
    return build;
  });
  const auto first = daemon.ask(sharing(request_for(world.alice, "x")));
  const auto second = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(eventually([&] { return first->ended() && second->ended(); }));
  CHECK(second->joined());
  CHECK(daemon.complete(sharing(request_for(world.bob, "x")))->result().status ==
        BuildStatus::Built);
}

TEST_CASE("reuse: an input of the same name with other contents poisons nobody",
          "[build][reject]") {
  World world;
  Daemon daemon(world, counting());
  // Mallory uploads another program under the compiler's name, or below it.
  const bool deep = GENERATE(true, false);
  const model::StorePaths below = deep ? model::StorePaths{path_named("lib")} : model::StorePaths{};
  if (deep) {
    daemon.add(world.alice, "lib", "evil");
    daemon.add(world.bob, "lib", "good");
  }
  daemon.add(world.alice, "cc", deep ? "same" : "evil", below);
  daemon.add(world.bob, "cc", deep ? "same" : "good", below);
  daemon.complete(sharing(request_for(world.alice, "x", {path_named("cc")})));
  const auto of_bob = daemon.complete(sharing(request_for(world.bob, "x", {path_named("cc")})));
  CHECK(of_bob->result().status == BuildStatus::Built);
  CHECK(daemon.contents(world.alice, path_named("x")) == "made 1");
  CHECK(daemon.contents(world.bob, path_named("x")) == "made 2");
}

TEST_CASE("reuse: what is put under an output's name later, or instead of building, reaches nobody",
          "[build][reject]") {
  World world;
  Daemon daemon(world, counting());
  // An upload is no result, whatever it is called.
  daemon.add(world.alice, "x", "evil");
  CHECK(daemon.complete(sharing(request_for(world.alice, "x")))->result().status ==
        BuildStatus::AlreadyValid);
  CHECK(daemon.complete(sharing(request_for(world.bob, "x")))->result().status ==
        BuildStatus::Built);
  CHECK(daemon.contents(world.bob, path_named("x")) == "made 1");
  // Built honestly, then replaced by an upload of the same name: the build's own contents count.
  daemon.complete(sharing(request_for(world.alice, "y")));
  const auto y = path_named("y");
  const auto genuine = world.db->path_info(world.alice, y);
  world.db->remove_paths(world.alice, {&y, 1});
  daemon.add(world.alice, "y", "evil");
  const auto of_bob = daemon.complete(sharing(request_for(world.bob, "y")));
  CHECK(daemon.contents(world.bob, y) != "evil");
  // A derivation that claims another one's output name has another key.
  auto claims = sharing(request_for(world.alice, "z"));
  claims.derivation.arguments = {"evil"};
  daemon.complete(claims);
  CHECK(daemon.complete(sharing(request_for(world.bob, "z")))->result().status ==
        BuildStatus::Built);
}

TEST_CASE("reuse: contents that were collected are built again", "[build]") {
  World world;
  Daemon daemon(world, counting());
  daemon.complete(sharing(request_for(world.alice, "x")));
  daemon.collect_garbage(world.alice);
  REQUIRE(world.db->all_paths(world.alice).empty());
  CHECK(daemon.complete(sharing(request_for(world.bob, "x")))->result().status ==
        BuildStatus::Built);
  CHECK(daemon.contents(world.bob, path_named("x")) == "made 2");
  // Now that somebody has them again, the account that lost its names gets them back.
  const auto back = daemon.complete(sharing(request_for(world.alice, "x")));
  CHECK(daemon.executor.runs().size() >= 2);
  CHECK(back->ended());
}

TEST_CASE("reuse: what is only its account's word crosses to no other account", "[build]") {
  World world;
  Daemon daemon(world, counting());
  const bool of_alice = GENERATE(true, false);
  auto alice = sharing(request_for(world.alice, "x"));
  alice.proven = of_alice;
  auto bob = sharing(request_for(world.bob, "x"));
  bob.proven = !of_alice;
  daemon.complete(alice);
  CHECK(daemon.complete(bob)->result().status == BuildStatus::Built);
  CHECK(daemon.contents(world.bob, path_named("x")) == "made 2");
  // The account itself uses it, as long as the contents are somebody's.
  daemon.add(world.alice, "kept", "made 1");
  const auto path = path_named("x");
  world.db->remove_paths(world.alice, {&path, 1});
  CHECK(daemon.complete(alice)->result().status == BuildStatus::AlreadyValid);
  CHECK(daemon.contents(world.alice, path) == "made 1");
}

TEST_CASE("reuse: only what follows from its derivation is signed", "[build]") {
  World world;
  Daemon daemon(world, counting());
  const auto signatures_of = [&](const model::StorePath& path) {
    return world.db->path_info(world.alice, path)->signatures;
  };
  auto word = request_for(world.alice, "word");
  word.proven = false;
  daemon.complete(word);
  CHECK(signatures_of(path_named("word")).empty());
  daemon.complete(request_for(world.alice, "proven"));
  CHECK(signatures_of(path_named("proven")).size() == 1);

  auto floating = request_for(world.alice, "f");
  floating.derivation.outputs["out"] = {{}, "r:sha256", {}};
  floating.proven = GENERATE(true, false);
  const auto made = daemon.complete(floating)->result().outputs.at("out").path;
  const auto hash = model::realisation_hashes(model::StoreDir(), floating.derivation).at("out");
  const auto realisation = world.db->realisation(world.alice, {model::hash_hex(hash), "out"});
  REQUIRE(realisation);
  CHECK(realisation->path == made);
  CHECK(realisation->signatures.empty() != floating.proven);
}

TEST_CASE("reuse: who joins with a proof proves the build for all", "[build]") {
  World world;
  Daemon daemon(world, [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.before_exit = 200ms;
    build.nars.push_back(nar_of_file("made"));
    return build;
  });
  auto word = request_for(world.alice, "x");
  word.proven = false;
  const auto first = daemon.ask(word);
  const auto second = daemon.ask(request_for(world.alice, "x"));
  REQUIRE(eventually([&] { return first->ended() && second->ended(); }));
  CHECK(daemon.executor.runs().size() == 1);
  CHECK(world.db->path_info(world.alice, path_named("x"))->signatures.size() == 1);
}

} // namespace reuse_test
