// Building again what is valid: what differs is told, and nothing changes.

#include "build/tree_comparison.hpp"
#include "build_rig.hpp"

#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>

#include <catch2/catch.hpp>

namespace check_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using model::BuildStatus;

namespace {

/// A tree that is written down: `dir{ name node … }`.
struct Tree {
  nar::EventSink& to;

  void contents(std::string_view text, bool executable) {
    to.regular(executable, text.size());
    if (!text.empty()) {
      to.contents(bytes_of(text));
    }
    to.regular_end();
  }

  void file(std::string_view name, std::string_view text, bool executable = false) {
    to.entry(name);
    contents(text, executable);
  }

  void link(std::string_view name, std::string_view target) {
    to.entry(name);
    to.symlink(target);
  }

  void folder(std::string_view name, const std::function<void(Tree&)>& inside) {
    to.entry(name);
    folder(inside);
  }

  void folder(const std::function<void(Tree&)>& inside) {
    to.directory();
    inside(*this);
    to.directory_end();
  }
};

std::string archive_of(const std::function<void(Tree&)>& write) {
  std::string text;
  StringSink sink(text);
  nar::Writer writer(sink);
  Tree tree{writer};
  write(tree);
  writer.finish();
  return text;
}

/// The first run makes the first archive, the next one the next.
FakeExecutor::Script one_after_another(std::vector<std::string> archives) {
  auto runs = std::make_shared<std::size_t>(0);
  return [archives, runs](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.nar_piece = 100;
    build.nars = {archives.at((*runs)++)};
    return build;
  };
}

build::BuildRequest check_of(build::BuildRequest request) {
  request.check = true;
  return request;
}

std::string small(std::string_view text) {
  return archive_of([&](Tree& tree) {
    tree.folder([&](Tree& inside) {
      inside.file("a", "always the same");
      inside.file("b", text);
    });
  });
}

using Lines = std::vector<std::string>;

/// What is told when `now` comes where `before` is.
Lines differences(const std::function<void(Tree&)>& before,
                  const std::function<void(Tree&)>& now,
                  std::size_t most = 100) {
  World world;
  Daemon daemon(world, one_after_another({}));
  auto import = daemon.store.begin_import(world.alice,
                                          {.path = path_named("compared"),
                                           .deriver = {},
                                           .nar_hash = {},
                                           .nar_size = {},
                                           .references = {},
                                           .signatures = {},
                                           .content_address = {},
                                           .scan_for = {}});
  const auto archive = archive_of(before);
  import.feed(bytes_of(archive));
  const auto info = import.seal();
  daemon.store.commit(world.alice, {&info, 1});
  const auto stored = daemon.store.open_export(world.alice, info.path);
  build::TreeComparison comparison(stored, most);
  nar::Reader reader(comparison);
  const auto other = archive_of(now);
  for (std::size_t at = 0; at < other.size(); at += 777) {
    reader.feed(bytes_of(std::string_view(other).substr(at, 777)));
  }
  reader.expect_finished();
  auto lines = comparison.lines();
  if (comparison.differences() > lines.size()) {
    lines.push_back("more: " + std::to_string(comparison.differences() - lines.size()));
  }
  return lines;
}

} // namespace

TEST_CASE("check: outputs that come out the same", "[build]") {
  World world;
  Daemon daemon(world, one_after_another({small("x"), small("x")}));
  const auto request = request_for(world.alice, "x");
  REQUIRE(daemon.complete(request)->result().status == BuildStatus::Built);
  const auto again = daemon.complete(check_of(request));
  CHECK(again->result().status == BuildStatus::Built);
  CHECK(again->result().outputs.size() == 1);
  CHECK(again->log().find("[nixbuild] built again: every output is the same\n") !=
        std::string::npos);
  CHECK(daemon.executor.runs().size() == 2);
  CHECK(daemon.executor.runs().back()->finished);
}

TEST_CASE("check: outputs that differ are told, and stay as they were", "[build]") {
  World world;
  Daemon daemon(world, one_after_another({small("text one"), small("text two")}));
  const auto request = request_for(world.alice, "x");
  REQUIRE(daemon.complete(request)->result().status == BuildStatus::Built);
  const auto path = *request.derivation.outputs.at("out").path;
  const auto before = world.db->path_info(world.alice, path);
  const auto again = daemon.complete(check_of(request));
  CHECK(again->result().status == BuildStatus::NotDeterministic);
  CHECK(again->result().error == "derivation '/nix/store/" +
                                     std::string(request.derivation_path.base_name()) +
                                     "' may not be deterministic: output '/nix/store/" +
                                     std::string(path.base_name()) + "' differs");
  CHECK(again->log().find("-x differs: b: differs from byte 5 on: 74776f now, 6f6e65 before\n") !=
        std::string::npos);
  CHECK(world.db->path_info(world.alice, path) == before);
  // Nobody is told the result of a check in place of a build.
  CHECK(daemon.complete(request)->result().status == BuildStatus::AlreadyValid);
  CHECK(world.db->build(world.alice, again->number())->status == BuildStatus::NotDeterministic);
}

TEST_CASE("check: what is not valid cannot be compared", "[build]") {
  World world;
  Daemon daemon(world, one_after_another({}));
  const auto result = daemon.complete(check_of(request_for(world.alice, "x")))->result();
  CHECK(result.status == BuildStatus::MiscFailure);
  CHECK(result.error.find("are not valid, so checking is not possible") != std::string::npos);
  CHECK(daemon.executor.runs().empty());
}

TEST_CASE("check: a daemon that takes the machine up compares, too", "[build]") {
  World world;
  const auto request = request_for(world.alice, "x");
  auto policy = build::BuildPolicy();
  policy.keep = build::KeepRunning::Keep;
  {
    Daemon daemon(world, one_after_another({small("one")}));
    REQUIRE(daemon.complete(request)->result().status == BuildStatus::Built);
  }
  auto& killed = mortal(world, [](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.log = {{"begun\n"}};
    build.before_exit = std::chrono::milliseconds(300);
    build.nars = {small("two")};
    return build;
  });
  auto checked = check_of(request);
  checked.policy = policy;
  const auto asked = killed.ask(checked);
  REQUIRE(eventually([&] { return asked->log().find("begun") != std::string::npos; }));
  const auto number = asked->number();
  killed.kill();
  Daemon next(world, one_after_another({}));
  REQUIRE(eventually([&] { return world.db->build(world.alice, number)->status.has_value(); }));
  INFO(world.log_of(number) << world.db->build(world.alice, number)->error);
  CHECK(world.db->build(world.alice, number)->status == BuildStatus::NotDeterministic);
  CHECK(world.log_of(number).find("differs: b: ") != std::string::npos);
}

TEST_CASE("check: trees are compared node by node", "[build]") {
  const std::string large(300'000, 'x');
  auto changed = large;
  changed[200'001] = 'y';
  const auto before = [&](Tree& tree) {
    tree.folder([&](Tree& root) {
      root.folder("bin", [](Tree& bin) {
        bin.file("gone", "1");
        bin.file("kept", "same", true);
        bin.file("mode", "same", true);
        bin.file("zz", "last");
      });
      root.file("empty", "");
      root.file("grown", "abc");
      root.file("large", large);
      root.link("link", "a");
      root.folder("turned", [](Tree& inside) { inside.file("f", "1"); });
    });
  };
  const auto now = [&](Tree& tree) {
    tree.folder([&](Tree& root) {
      root.folder("bin", [](Tree& bin) {
        bin.file("kept", "same", true);
        bin.file("mode", "same");
        bin.folder("new", [](Tree& inside) {
          inside.folder("deep", [](Tree& deep) { deep.file("f", "1"); });
          inside.file("x", "1");
        });
      });
      root.file("empty", "");
      root.file("grown", "abcd");
      root.file("large", changed);
      root.link("link", "b");
      root.file("turned", "1");
      root.link("zz", "new");
    });
  };
  CHECK(differences(before, before).empty());
  CHECK(differences(now, now).empty());
  CHECK(differences(before, now) ==
        Lines{"bin/gone: missing now",
              "bin/mode: not executable now, but before",
              "bin/new: new",
              "bin/zz: missing now",
              "grown: 4 bytes now, 3 before",
              "grown: differs from byte 3 on: 64 now, nothing before",
              "large: differs from byte 200001 on: 7978787878787878 now, 7878787878787878 before",
              "link: leads to 'b' now, to 'a' before",
              "turned: a file now, a folder before",
              "zz: new"});
  CHECK(differences(now, before).size() == 9);
  CHECK(differences(before, now, 2) ==
        Lines{"bin/gone: missing now", "bin/mode: not executable now, but before", "more: 8"});
  const auto only_file = [](Tree& tree) {
    tree.contents("text", false);
  };
  CHECK(differences(before, only_file) == Lines{".: a file now, a folder before"});
  CHECK(differences(only_file, before) == Lines{".: a folder now, a file before"});
}

namespace {

build::BuildRequest with_policy(build::BuildRequest request, bool twice) {
  request.policy = build::BuildPolicy();
  request.policy->build_twice = twice;
  return request;
}

std::vector<store::BuildRecord> automatic_checks(World& world) {
  std::vector<store::BuildRecord> found;
  for (std::int64_t number = 1; number < 10; ++number) {
    const auto record = world.db->build(world.alice, number);
    if (record && record->tags.contains("check:automatic")) {
      found.push_back(*record);
    }
  }
  return found;
}

} // namespace

TEST_CASE("check: by a setting every build is built once more, and nobody waits", "[build]") {
  World world;
  Daemon daemon(world, one_after_another({small("one"), small("two"), small("y"), small("y")}));
  const auto request = with_policy(request_for(world.alice, "x"), true);
  CHECK(daemon.complete(request)->result().status == BuildStatus::Built);
  REQUIRE(eventually(
      [&] { return daemon.builds.running() == 0 && daemon.executor.runs().size() == 2; }));
  auto checks = automatic_checks(world);
  REQUIRE(checks.size() == 1);
  CHECK(checks[0].status == BuildStatus::NotDeterministic);
  CHECK(world.log_of(checks[0].id).find("differs from byte") != std::string::npos);
  // What is valid is neither built nor checked again.
  CHECK(daemon.complete(request)->result().status == BuildStatus::AlreadyValid);
  CHECK(daemon.complete(with_policy(request_for(world.alice, "y"), true))->result().status ==
        BuildStatus::Built);
  REQUIRE(eventually(
      [&] { return daemon.builds.running() == 0 && daemon.executor.runs().size() == 4; }));
  checks = automatic_checks(world);
  REQUIRE(checks.size() == 2);
  CHECK(checks[1].status == BuildStatus::Built);
}

TEST_CASE("check: a client has its build repeated", "[build]") {
  World world;
  Daemon daemon(
      world,
      one_after_another(
          {small("a"), small("a"), small("a"), small("b"), small("c"), small("d"), small("e")}));
  auto request = with_policy(request_for(world.alice, "x"), false);
  request.options.repeats = 2;
  request.options.enforce_determinism = true;
  const auto same = daemon.complete(request)->result();
  CHECK(same.status == BuildStatus::Built);
  CHECK(same.times_built == 3);
  CHECK_FALSE(same.non_deterministic);

  request = with_policy(request_for(world.alice, "y"), false);
  request.options.repeats = 5;
  const auto other = daemon.complete(request)->result();
  CHECK(other.status == BuildStatus::NotDeterministic);
  CHECK(other.error.find("may not be deterministic") != std::string::npos);
  CHECK(other.times_built == 1);

  request = with_policy(request_for(world.alice, "z"), false);
  request.options.repeats = 1;
  request.options.enforce_determinism = false;
  const auto told = daemon.complete(request)->result();
  CHECK(told.status == BuildStatus::Built);
  CHECK(told.non_deterministic);
  CHECK(told.outputs.size() == 1);
}

} // namespace check_test
