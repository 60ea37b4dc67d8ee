#include "paper_server.hpp"
#include "server/build_graph.hpp"

#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace build_graph_test {

using namespace nixbuild;
using protocol::DerivedPath;
using tests::path_named;

namespace {

/// A store of one account to put derivations into.
struct Shelf {
  tests::PaperClock clock;
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::SegmentStore> segments = store::make_memory_segments();
  store::Store store{*db, *segments, clock, model::StoreDir()};
  store::AccountId account = db->ensure_account("default");

  void put(const std::string& name, const std::string& contents) {
    auto import =
        store.begin_import(account, {path_named(name), {}, {}, {}, {}, 0, false, {}, {}, {}});
    REQUIRE(import.feed(bytes_of(tests::nar_of_file(contents))) > 0);
    const auto info = import.seal();
    // Not by a commit, which would look at what derivations say: a store may be older than that.
    const std::span<const model::PathInfo> one(&info, 1);
    db->register_paths(account, one);
  }

  /// `name`.drv with outputs `out` and `dev`, made from outputs of other derivations.
  void derive(const std::string& name, const std::map<std::string, std::set<std::string>>& inputs) {
    model::Derivation derivation;
    derivation.outputs["out"].path = path_named(name);
    derivation.outputs["dev"].path = path_named(name + "-dev");
    derivation.platform = "x86_64-linux";
    derivation.builder = "/bin/sh";
    for (const auto& [input, outputs] : inputs) {
      derivation.input_derivations[path_named(input + ".drv")] = outputs;
    }
    put(name + ".drv", model::print_derivation(model::StoreDir(), derivation));
  }

  server::BuildGraph load(const std::vector<DerivedPath>& wanted) {
    return server::load_build_graph(store, account, wanted, model::SelfReferences::WithOffsets);
  }
};

DerivedPath all_of(const std::string& name) {
  return {path_named(name + ".drv"), DerivedPath::Wants::AllOutputs, {}};
}

DerivedPath itself(const std::string& name) {
  return {path_named(name), DerivedPath::Wants::Path, {}};
}

DerivedPath outputs_of(const std::string& name, std::vector<std::string> outputs) {
  return {path_named(name + ".drv"), DerivedPath::Wants::Outputs, std::move(outputs)};
}

std::string code_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

} // namespace

TEST_CASE("build graph: goes down to what is valid, and knows how much waits behind each node",
          "[server]") {
  Shelf shelf;
  shelf.derive("deep", {});
  shelf.derive("bottom", {{"deep", {"out"}}});
  shelf.derive("middle", {{"bottom", {"out"}}});
  shelf.derive("top", {{"middle", {"out"}}, {"bottom", {"out"}}});
  const auto whole = shelf.load({all_of("top")});
  CHECK(whole.nodes.size() == 4);
  CHECK(whole.nodes[whole.places.at(path_named("deep.drv"))].height == 3);
  CHECK(whole.nodes[whole.places.at(path_named("top.drv"))].height == 0);

  shelf.put("bottom", "made");
  const auto part = shelf.load({all_of("top")});
  CHECK(part.nodes.size() == 3);
  CHECK(part.nodes[part.places.at(path_named("bottom.drv"))].valid);
  CHECK_FALSE(part.places.contains(path_named("deep.drv")));
}

TEST_CASE("build graph: a node that was found valid is looked at again when more of it is wanted",
          "[server]") {
  Shelf shelf;
  shelf.derive("deep", {});
  shelf.derive("bottom", {{"deep", {"out"}}});
  shelf.derive("one", {{"bottom", {"out"}}});
  shelf.derive("two", {{"bottom", {"dev"}}});
  shelf.put("bottom", "only out");
  for (const auto& order :
       {std::vector{all_of("one"), all_of("two")}, std::vector{all_of("two"), all_of("one")}}) {
    const auto graph = shelf.load(order);
    CHECK(graph.nodes.size() == 4);
    CHECK_FALSE(graph.nodes[graph.places.at(path_named("bottom.drv"))].valid);
    CHECK(graph.nodes[graph.places.at(path_named("bottom.drv"))].dependants.size() == 2);
  }
}

TEST_CASE("build graph: what is not there and nobody builds is named", "[server]") {
  Shelf shelf;
  shelf.derive("top", {{"absent", {"out"}}});
  shelf.put("file", "x");
  const auto graph = shelf.load({all_of("top"), itself("file"), itself("nothing")});
  CHECK(graph.missing == model::StorePathSet{path_named("absent.drv"), path_named("nothing")});
  CHECK(graph.leaves == model::StorePathSet{path_named("file")});
}

TEST_CASE("build graph: circles, unknown outputs and files that are no derivations are refused",
          "[server][reject]") {
  Shelf shelf;
  shelf.derive("hen", {{"egg", {"out"}}});
  shelf.derive("egg", {{"hen", {"out"}}});
  CHECK(code_of([&] { static_cast<void>(shelf.load({all_of("hen")})); }) == "build.cycle");
  shelf.derive("plain", {});
  CHECK(code_of([&] { static_cast<void>(shelf.load({outputs_of("plain", {"lib"})})); }) ==
        "build.output");
  shelf.put("text.drv", "not a derivation");
  CHECK(code_of([&] { static_cast<void>(shelf.load({all_of("text")})); }) == "derivation.syntax");
}

} // namespace build_graph_test
