#include "build_graph.hpp"

#include "archive_intake.hpp"
#include "derivation_hashes.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace {

class Loader {
public:
  Loader(store::Store& store,
         store::AccountId account,
         model::SelfReferences self_references,
         bool check)
      : store_(store), account_(account), self_references_(self_references), check_(check),
        hashes_(store, account) {}

  BuildGraph load(std::span<const protocol::DerivedPath> wanted) {
    for (const auto& target : wanted) {
      if (target.wants == protocol::DerivedPath::Wants::Nested) {
        throw Error(
            Reaction::Unsupported,
            "build.nested",
            fmt::format("'{}' is an output of an output: derivations that builders make "
                        "(dynamic derivations) are not offered",
                        protocol::print(store_.dir(), target, protocol::DerivedPathForm::Marked)));
      }
      if (target.wants != protocol::DerivedPath::Wants::Path) {
        todo_.push_back({target.path, {target.outputs.begin(), target.outputs.end()}, check_});
      } else if (is_valid(store_, account_, target.path)) {
        graph_.leaves.insert(target.path);
      } else {
        graph_.missing.insert(target.path);
      }
    }
    while (!todo_.empty()) {
      const Wish wish = std::move(todo_.back());
      todo_.pop_back();
      look_at(wish);
    }
    link();
    return std::move(graph_);
  }

private:
  struct Wish {
    model::StorePath path;
    std::set<std::string> outputs; ///< empty: all
    bool check = false;            ///< wanted itself, and to be compared
  };

  void look_at(const Wish& wish) {
    if (graph_.missing.contains(wish.path)) {
      return;
    }
    const auto [place, fresh] = graph_.places.try_emplace(wish.path, graph_.nodes.size());
    if (fresh) {
      if (!is_valid(store_, account_, wish.path)) {
        graph_.places.erase(place);
        graph_.missing.insert(wish.path);
        return;
      }
      expect_room();
      graph_.nodes.push_back({.path = wish.path,
                              .derivation = store::load_derivation(store_, account_, wish.path),
                              .wanted = {},
                              .valid = true,
                              .check = false,
                              .outputs = {},
                              .names = {},
                              .proven = false,
                              .refused = {},
                              .inputs = {},
                              .dependants = {}});
      auto& node = graph_.nodes.back();
      node.outputs = output_paths(store_, account_, hashes_, node.derivation, self_references_);
    }
    auto& node = graph_.nodes[place->second];
    add_outputs(node, wish.outputs);
    // More of a derivation that was found valid may be wanted now.
    node.check = node.check || wish.check;
    if (node.valid && (node.check || !all_valid(node))) {
      node.valid = false;
      name_outputs(node);
      note_missing_sources(node.derivation);
      for (const auto& [input, outputs] : node.derivation.input_derivations) {
        todo_.push_back({input, outputs, false});
      }
    }
  }

  void expect_room() const {
    if (graph_.nodes.size() >= kGraphLimit) {
      throw Error(
          Reaction::Reject,
          "build.graph-limit",
          fmt::format("the request needs more than {} derivations to be looked at", kGraphLimit));
    }
  }

  void add_outputs(BuildGraph::Node& node, const std::set<std::string>& outputs) const {
    if (outputs.empty()) {
      for (const auto& [name, output] : node.derivation.outputs) {
        node.wanted.insert(name);
      }
    }
    for (const auto& output : outputs) {
      if (!node.derivation.outputs.contains(output)) {
        throw Error(Reaction::Reject,
                    "build.output",
                    fmt::format("derivation '{}' does not have an output named '{}'",
                                store_.dir().print(node.path),
                                output));
      }
      node.wanted.insert(output);
    }
  }

  bool all_valid(const BuildGraph::Node& node) const {
    model::StorePaths paths;
    for (const auto& output : node.wanted) {
      const auto& path = node.outputs.at(output);
      if (!path) {
        return false;
      }
      paths.push_back(*path);
    }
    return store_.db().valid_paths(account_, paths).size() == paths.size();
  }

  void name_outputs(BuildGraph::Node& node) {
    if (!has_realisations(model::derivation_kind(node.derivation))) {
      return;
    }
    try {
      node.names = hashes_.names_of(node.derivation);
    } catch (const Error&) {
      // A derivation behind it is missing: it is built all the same, and found by its path alone.
    }
  }

  void note_missing_sources(const model::Derivation& derivation) {
    const auto& sources = derivation.input_sources;
    const auto valid = store_.db().valid_paths(account_, sources);
    if (valid.size() == sources.size()) {
      return;
    }
    for (const auto& source : sources) {
      if (std::find(valid.begin(), valid.end(), source) == valid.end()) {
        graph_.missing.insert(source);
      }
    }
  }

  /// Sorts the nodes, links them, and measures how much waits behind each.
  void link() {
    auto& nodes = graph_.nodes;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].valid) {
        continue;
      }
      for (const auto& [input, outputs] : nodes[i].derivation.input_derivations) {
        const auto place = graph_.places.find(input);
        if (place != graph_.places.end()) {
          nodes[i].inputs.push_back(place->second);
          nodes[place->second].dependants.push_back(i);
        }
      }
    }
    const auto order = sorted();
    for (auto i = order.rbegin(); i != order.rend(); ++i) {
      for (const auto input : nodes[*i].inputs) {
        nodes[input].height = std::max(nodes[input].height, nodes[*i].height + 1);
      }
    }
  }

  /// Numbers of the nodes, inputs first.
  std::vector<std::size_t> sorted() const {
    std::vector<std::size_t> order;
    std::vector<std::size_t> waiting_for;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      waiting_for.push_back(graph_.nodes[i].inputs.size());
      if (waiting_for[i] == 0) {
        order.push_back(i);
      }
    }
    for (std::size_t done = 0; done < order.size(); ++done) {
      for (const auto dependant : graph_.nodes[order[done]].dependants) {
        if (--waiting_for[dependant] == 0) {
          order.push_back(dependant);
        }
      }
    }
    if (order.size() < graph_.nodes.size()) {
      const auto stuck = std::find_if(
          waiting_for.begin(), waiting_for.end(), [](std::size_t left) { return left > 0; });
      const auto& node = graph_.nodes[static_cast<std::size_t>(stuck - waiting_for.begin())];
      throw Error(Reaction::Reject,
                  "build.cycle",
                  fmt::format("derivation '{}' depends on itself", store_.dir().print(node.path)));
    }
    return order;
  }

  store::Store& store_;
  store::AccountId account_;
  model::SelfReferences self_references_;
  bool check_;
  DerivationHashes hashes_;
  BuildGraph graph_;
  std::vector<Wish> todo_;
};

} // namespace

BuildGraph load_build_graph(store::Store& store,
                            store::AccountId account,
                            std::span<const protocol::DerivedPath> wanted,
                            model::SelfReferences self_references,
                            bool check) {
  return Loader(store, account, self_references, check).load(wanted);
}

namespace {

/// An input that comes out differently each time; the derivation itself does not say so.
const BuildGraph::Node* impure_input(const BuildGraph& graph, const BuildGraph::Node& node) {
  const auto kind = model::derivation_kind(node.derivation);
  if (kind == model::OutputKind::Impure || kind == model::OutputKind::Fixed) {
    return nullptr;
  }
  const auto found = std::find_if(node.inputs.begin(), node.inputs.end(), [&](std::size_t input) {
    return model::derivation_kind(graph.nodes[input].derivation) == model::OutputKind::Impure;
  });
  return found == node.inputs.end() ? nullptr : &graph.nodes[*found];
}

} // namespace

void judge(store::Store& store, store::AccountId account, BuildGraph& graph) {
  DerivationHashes hashes(store, account);
  const auto& dir = store.dir();
  for (auto& node : graph.nodes) {
    if (node.valid) {
      continue;
    }
    if (const auto* impure = impure_input(graph, node)) {
      node.refused = fmt::format("pure derivation '{}' depends on impure derivation '{}'",
                                 dir.print(node.path),
                                 dir.print(impure->path));
      continue;
    }
    try {
      node.proven = hashes.outputs_follow(node.path, node.derivation);
      if (node.proven && has_static_paths(model::derivation_kind(node.derivation))) {
        node.names = hashes.names_of(node.derivation);
      }
    } catch (const Error& error) {
      node.refused = error.message();
    }
  }
}

void expect_inside(store::Store& store,
                   store::AccountId account,
                   const build::BuilderStore& inside,
                   const BuildGraph& graph) {
  const auto expect = [&](const model::StorePath& path) {
    if (!inside.allows(path)) {
      throw Error(Reaction::NotFound,
                  "worker.invalid-path",
                  fmt::format("path '{}' is not valid", store.dir().print(path)));
    }
  };
  DerivationHashes hashes(store, account);
  for (const auto& node : graph.nodes) {
    expect(node.path);
    for (const auto& source : node.derivation.input_sources) {
      expect(source);
    }
    for (const auto& [input, outputs] : node.derivation.input_derivations) {
      expect(input);
    }
    hashes.expect_paths(node.path, node.derivation);
  }
}

} // namespace nixbuild::server
