#include "build_rig.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>
#include <fmt/format.h>

namespace made_outputs_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using model::BuildStatus;

namespace {

const model::StoreDir kDir;

/// A floating derivation with these outputs.
build::BuildRequest floating(store::AccountId account,
                             const std::vector<std::string>& outputs,
                             const std::string& method = "r:sha256") {
  auto request = request_for(account, "x");
  request.derivation.outputs.clear();
  for (const auto& name : outputs) {
    request.derivation.outputs[name].method_algorithm = method;
  }
  return request;
}

std::string scratch_hash(const build::BuildRequest& request, const std::string& output) {
  return std::string(model::scratch_path(kDir, request.derivation_path, output).hash_part());
}

/// Makes the files in the order of the outputs' names.
FakeExecutor::Script making(std::vector<std::string> contents) {
  return [contents](const sandbox::ExecutionPlan&) {
    FakeBuild build;
    build.nar_piece = 50;
    for (const auto& text : contents) {
      build.nars.push_back(nar_of_file(text));
    }
    return build;
  };
}

Hash sha256(std::string_view bytes) {
  return hash_of(HashAlgorithm::Sha256, bytes_of(bytes));
}

model::StorePath content_path(std::string_view name,
                              const Hash& hash,
                              const model::StorePaths& references = {},
                              bool itself = false) {
  return model::make_content_addressed_path(
      kDir, name, {model::ContentAddressMethod::NixArchive, hash}, references, itself);
}

} // namespace

TEST_CASE("made outputs: the path follows from the contents and is found again", "[build]") {
  World world;
  Daemon daemon(world, making({"plain"}));
  const auto request = floating(world.alice, {"out"});
  const auto result = daemon.complete(request)->result();
  REQUIRE(result.status == BuildStatus::Built);
  const auto path = result.outputs.at("out").path;
  CHECK(path == content_path("x", sha256(nar_of_file("plain"))));
  CHECK(daemon.executor.runs().front()->job.outputs.front().store_name ==
        scratch_hash(request, "out") + "-x");
  const auto info = world.db->path_info(world.alice, path);
  REQUIRE(info);
  CHECK(info->content_address ==
        "fixed:r:sha256:" + nix32_encode(sha256(nar_of_file("plain")).bytes()));
  CHECK(info->deriver == request.derivation_path);
  CHECK(daemon.contents(world.alice, path) == "plain");

  const auto again = daemon.complete(request)->result();
  CHECK(again.status == BuildStatus::AlreadyValid);
  CHECK(again.outputs.at("out").path == path);
  CHECK(daemon.executor.runs().size() == 1);
  const auto hash = model::realisation_hashes(kDir, request.derivation).at("out");
  CHECK(world.db->realisation(world.alice, {model::hash_hex(hash), "out"})->path == path);
  CHECK_FALSE(world.db->realisation(world.bob, {model::hash_hex(hash), "out"}));

  auto otherwise = request; // it names nothing, so every Nix gives it this name
  otherwise.self_references = model::SelfReferences::Plain;
  CHECK(daemon.complete(otherwise)->result().status == BuildStatus::AlreadyValid);

  world.db->remove_paths(world.alice, {&path, 1});
  CHECK(daemon.complete(request)->result().outputs.at("out").path == path);
}

TEST_CASE(
    "made outputs: an output that names itself is hashed without its name and gets the new one",
    "[build]") {
  World world;
  auto request = floating(world.alice, {"out"});
  const auto scratch = scratch_hash(request, "out");
  const std::string text = "at " + scratch + "-x, twice " + scratch;
  Daemon daemon(world, making({text}));

  std::string blank = nar_of_file(text);
  std::vector<std::size_t> offsets;
  for (std::size_t at = 0; (at = blank.find(scratch, at)) != std::string::npos;) {
    blank.replace(at, 32, std::string(32, '\0'));
    offsets.push_back(at);
  }
  REQUIRE(offsets.size() == 2);
  request.self_references = model::SelfReferences::Plain;
  const auto plain = daemon.complete(request)->result().outputs.at("out").path;
  CHECK(plain == content_path("x", sha256(blank), {}, true));
  request.self_references = model::SelfReferences::WithOffsets;
  // What the other form has made is there, and not what is asked for.
  const auto result = daemon.complete(request)->result();
  CHECK(result.status == BuildStatus::Built);
  const auto path = result.outputs.at("out").path;
  CHECK(path == content_path(
                    "x", sha256(fmt::format("{}|{}|{}", blank, offsets[0], offsets[1])), {}, true));
  const std::string hash(path.hash_part());
  CHECK(daemon.contents(world.alice, path) == "at " + hash + "-x, twice " + hash);
  CHECK(world.db->path_info(world.alice, path)->references == model::StorePaths{path});
}

TEST_CASE("made outputs: outputs that name each other get each other's new names", "[build]") {
  World world;
  const auto request = floating(world.alice, {"a", "b", "out"});
  const auto of_b = scratch_hash(request, "b");
  const auto of_out = scratch_hash(request, "out");
  Daemon daemon(world, making({"see " + of_b, "see " + of_out + " and me " + of_b, "alone"}));
  const auto result = daemon.complete(request)->result();
  REQUIRE(result.status == BuildStatus::Built);
  const auto out = result.outputs.at("out").path;
  const auto a = result.outputs.at("a").path;
  const auto b = result.outputs.at("b").path;
  CHECK(daemon.contents(world.alice, a) == "see " + std::string(b.hash_part()));
  CHECK(daemon.contents(world.alice, b) ==
        "see " + std::string(out.hash_part()) + " and me " + std::string(b.hash_part()));
  CHECK(world.db->path_info(world.alice, a)->references == model::StorePaths{b});
  CHECK(a == content_path("x-a", sha256(nar_of_file(daemon.contents(world.alice, a))), {b}));
  CHECK(daemon.store.verify(world.alice, {}).empty());
}

TEST_CASE("made outputs: circles, and references where the method allows none, are refused",
          "[build][reject]") {
  World world;
  const auto circle = floating(world.alice, {"a", "b"});
  const auto flat = floating(world.alice, {"out"}, "sha256");
  SECTION("circle") {
    Daemon daemon(world, making({scratch_hash(circle, "b"), scratch_hash(circle, "a")}));
    const auto result = daemon.complete(circle)->result();
    CHECK(result.status == BuildStatus::OutputRejected);
    CHECK(result.error.find("cycle detected") != std::string::npos);
  }
  SECTION("a flat file that names itself") {
    Daemon daemon(world, making({scratch_hash(flat, "out")}));
    CHECK(daemon.complete(flat)->result().status == BuildStatus::OutputRejected);
  }
  SECTION("a flat file") {
    Daemon daemon(world, making({"flat"}));
    const auto path = daemon.complete(flat)->result().outputs.at("out").path;
    CHECK(path == model::make_content_addressed_path(
                      kDir, "x", {model::ContentAddressMethod::Flat, sha256("flat")}, {}, false));
    return;
  }
  CHECK(world.db->all_paths(world.alice).empty());
}

TEST_CASE("made outputs: deferred ones are refused, impure ones are built every time", "[build]") {
  World world;
  Daemon daemon(world, making({"now"}));
  auto request = floating(world.alice, {"out"}, "");
  CHECK(daemon.complete(request)->result().status == BuildStatus::InputRejected);
  request = floating(world.alice, {"out"});
  request.derivation.outputs["out"].hash = "impure";
  CHECK(daemon.complete(request)->result().status == BuildStatus::Built);
  CHECK(daemon.complete(request)->result().status == BuildStatus::Built);
  CHECK(daemon.executor.runs().size() == 2);
}

TEST_CASE("made outputs: a result is used again by others who allow it, by the outputs' names",
          "[build]") {
  World world;
  Daemon daemon(world, making({"library", "program"}));
  auto request = floating(world.alice, {"lib", "out"});
  request.policy->share_results = true;
  const auto first = daemon.complete(request)->result();
  request.account = world.bob;
  const auto second = daemon.complete(request)->result();
  CHECK(second.status == BuildStatus::AlreadyValid);
  CHECK(second.outputs == first.outputs);
  CHECK(daemon.executor.runs().size() == 1);
}

TEST_CASE("outputs that are refused are nobody's", "[build][reject]") {
  World world;
  auto request = request_for(world.alice, "x");
  request.derivation.environment["allowedReferences"] = "";
  const std::string itself(request.derivation.outputs.at("out").path->hash_part());
  Daemon daemon(world, making({itself}));
  CHECK(daemon.complete(request)->result().status == BuildStatus::OutputRejected);
  CHECK(world.db->all_paths(world.alice).empty());
  CHECK(daemon.complete(request)->result().status == BuildStatus::OutputRejected);
}

TEST_CASE("fixed outputs: what has another hash is kept where that puts it, for the corrected one",
          "[build]") {
  World world;
  Daemon daemon(world, making({"downloaded"}));
  const auto fixed = [&](const std::string& method, const Hash& hash) {
    auto request = request_for(world.alice, "x");
    auto& output = request.derivation.outputs["out"];
    output.method_algorithm = method;
    output.hash = model::hash_hex(hash);
    const auto how = model::parse_method_algorithm(method).method;
    output.path = model::make_content_addressed_path(kDir, "x", {how, hash}, {}, false);
    return request;
  };
  for (const auto* method : {"sha256", "r:sha256"}) {
    CAPTURE(method);
    const auto right = *method == 'r' ? sha256(nar_of_file("downloaded")) : sha256("downloaded");
    const auto runs = daemon.executor.runs().size();
    const auto wrong = daemon.complete(fixed(method, sha256("something else")));
    CHECK(wrong->result().status == BuildStatus::OutputRejected);
    const auto corrected = fixed(method, right);
    const auto& path = *corrected.derivation.outputs.at("out").path;
    CHECK(wrong->log().ends_with("[nixbuild] what came out is kept as " + kDir.print(path) + "\n"));
    const auto info = world.db->path_info(world.alice, path);
    REQUIRE(info);
    CHECK(info->content_address ==
          model::print(corrected.derivation.outputs.at("out").fixed_address()));
    CHECK_FALSE(world.db->path_info(world.bob, path));
    CHECK(daemon.complete(corrected)->result().status == BuildStatus::AlreadyValid);
    CHECK(daemon.executor.runs().size() == runs + 1);
  }
}

} // namespace made_outputs_test
