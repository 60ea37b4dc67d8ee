#include "references_graph.hpp"

#include "steps.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/registration.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

namespace nixbuild::build {

namespace {

/// References followed while closure sizes are added up: a few seconds of work.
constexpr std::uint64_t kMostSteps = 500'000'000;

/// The store path in which `text` lies.
std::optional<model::StorePath> path_of_text(const model::StoreDir& dir, std::string_view text) {
  try {
    return dir.parse(text.substr(0, text.find('/', dir.text().size() + 1)));
  } catch (const Error&) {
    return std::nullopt;
  }
}

model::StorePaths roots_of(const model::StoreDir& dir,
                           const Words& texts,
                           const model::StorePaths& closure,
                           std::string_view derivation) {
  model::StorePaths roots;
  for (const auto& text : texts) {
    auto path = path_of_text(dir, text);
    if (!path) {
      throw BuildFailure(
          model::BuildStatus::InputRejected,
          fmt::format(
              "'exportReferencesGraph' of '{}' contains a non-store path '{}'", derivation, text));
    }
    if (!std::binary_search(closure.begin(), closure.end(), *path)) {
      throw BuildFailure(model::BuildStatus::InputRejected,
                         fmt::format("cannot export references of path '{}' because it is not in "
                                     "the input closure of the derivation '{}'",
                                     dir.print(*path),
                                     derivation));
    }
    roots.push_back(std::move(*path));
  }
  return roots;
}

/// The closure of `roots`, and of the outputs of the derivations in it.
model::StorePaths
with_outputs(store::Store& store, store::AccountId account, model::StorePaths roots) {
  auto paths = store.db().closure(account, roots);
  model::StorePaths outputs;
  for (const auto& path : paths) {
    if (path.is_derivation()) {
      for (const auto& [name, output] : store::load_derivation(store, account, path).outputs) {
        if (output.path) {
          outputs.push_back(*output.path);
        }
      }
    }
  }
  if (!outputs.empty()) {
    const auto more = store.db().closure(account, outputs);
    paths.insert(paths.end(), more.begin(), more.end());
  }
  model::sort_unique(paths);
  return paths;
}

std::vector<GraphPath>
infos_of(store::Store& store, store::AccountId account, const model::StorePaths& paths) {
  std::vector<GraphPath> graph;
  const auto add = [&graph](const model::PathInfo& info) {
    graph.push_back({info, 0});
  };
  store.db().path_infos(account, paths, add);
  return graph;
}

/// Adds up the closure of each path of a graph that is closed and sorted.
void add_closure_sizes(std::vector<GraphPath>& graph, std::string_view derivation) {
  const auto place = [&graph](const model::StorePath& path) {
    const auto found = std::lower_bound(
        graph.begin(), graph.end(), path, [](const GraphPath& a, const model::StorePath& b) {
          return a.info.path < b;
        });
    return static_cast<std::size_t>(found - graph.begin());
  };
  std::vector<std::vector<std::size_t>> references(graph.size());
  for (std::size_t i = 0; i < graph.size(); ++i) {
    for (const auto& reference : graph[i].info.references) {
      references[i].push_back(place(reference));
    }
  }
  std::uint64_t steps = 0;
  std::vector<std::size_t> seen(graph.size(), graph.size()); // by which of the paths
  std::vector<std::size_t> todo;
  for (std::size_t root = 0; root < graph.size(); ++root) {
    todo.assign(1, root);
    seen[root] = root;
    while (!todo.empty()) {
      const auto at = todo.back();
      todo.pop_back();
      graph[root].closure_size += graph[at].info.nar_size;
      steps += references[at].size();
      for (const auto next : references[at]) {
        if (std::exchange(seen[next], root) != root) {
          todo.push_back(next);
        }
      }
    }
    if (steps > kMostSteps) {
      throw BuildFailure(model::BuildStatus::InputRejected,
                         fmt::format("the references graph that '{}' asks for is too large: its "
                                     "closure sizes take more than {} steps",
                                     derivation,
                                     kMostSteps));
    }
  }
}

} // namespace

std::map<std::string, std::vector<GraphPath>> export_references(store::Store& store,
                                                                store::AccountId account,
                                                                const DerivationOptions& options,
                                                                const model::StorePaths& closure,
                                                                std::string_view derivation) {
  std::map<std::string, std::vector<GraphPath>> graphs;
  for (const auto& [name, texts] : options.references_graphs) {
    auto roots = roots_of(store.dir(), texts, closure, derivation);
    auto graph = infos_of(store, account, with_outputs(store, account, std::move(roots)));
    if (options.structured) {
      add_closure_sizes(graph, derivation);
    }
    graphs.emplace(name, std::move(graph));
  }
  return graphs;
}

void add_graph_files(sandbox::GuestJob& job,
                     const model::StoreDir& dir,
                     const std::map<std::string, std::vector<GraphPath>>& graphs) {
  for (const auto& [name, graph] : graphs) {
    std::vector<model::PathInfo> infos;
    for (const auto& path : graph) {
      infos.push_back(path.info);
    }
    job.files.push_back(
        {name, model::print_registration(dir, infos, model::RegistrationForm::ReferencesGraph)});
  }
}

} // namespace nixbuild::build
