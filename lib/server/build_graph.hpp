#pragma once

#include <nixbuild/build/builder_store.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/protocol/derived_path.hpp>
#include <nixbuild/store/store.hpp>

#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace nixbuild::server {

/// The derivations behind some targets, as they lie in an account's store, down to those whose
/// outputs are valid already.
struct BuildGraph {
  struct Node {
    model::StorePath path;
    model::Derivation derivation;
    std::set<std::string> wanted; ///< outputs that a target or a dependant needs
    bool valid = false; ///< all of `wanted` are valid: nothing to do, inputs not looked at
    bool check = false; ///< a target that is built again and compared; never `valid`
    /// Where the outputs are, those that are known before anything is built.
    std::map<std::string, std::optional<model::StorePath>> outputs;
    /// What names the realisations of its outputs, where that is known.
    std::map<std::string, Hash> names;
    bool proven = false; ///< judge: its outputs follow from it
    std::string refused; ///< judge: why it may not be built
    std::vector<std::size_t> inputs;
    std::vector<std::size_t> dependants;
    std::size_t height = 0; ///< builds on the longest way from here to a target that nobody needs
  };

  std::vector<Node> nodes;
  std::map<model::StorePath, std::size_t> places;
  model::StorePathSet missing; ///< targets and sources that are not valid and nobody builds
  model::StorePathSet leaves;  ///< targets that are paths and valid
};

/// Derivations that one request may make the server look at.
inline constexpr std::size_t kGraphLimit = 250'000;

/// Reads the graph. Blocking; time and memory grow with the derivations that are not built yet.
/// `self_references` says whose realisations count; with `check` targets are to be compared. A
/// derivation that is not valid stands in
/// `missing`. Errors: `build.graph-limit`, `build.cycle`, `build.output` (a derivation has no
/// output of that name), `derivation.*`.
[[nodiscard]] BuildGraph load_build_graph(store::Store& store,
                                          store::AccountId account,
                                          std::span<const protocol::DerivedPath> wanted,
                                          model::SelfReferences self_references,
                                          bool check = false);

/// Looks at what is to be built: whether outputs follow from their derivations, and whether
/// anything that is called pure is made from what is not. Blocking.
void judge(store::Store& store, store::AccountId account, BuildGraph& graph);

/// For a graph that a builder asks about: a derivation that it has written itself may name
/// anything. Every derivation and every source of the graph has to be among what the builder sees,
/// and every output where its derivation puts it. Blocking. Errors: `worker.invalid-path`
/// (NotFound), `derivation.paths`, those of DerivationHashes.
void expect_inside(store::Store& store,
                   store::AccountId account,
                   const build::BuilderStore& inside,
                   const BuildGraph& graph);

} // namespace nixbuild::server
