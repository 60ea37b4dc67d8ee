#include "derivation_hashes.hpp"

#include "build_graph.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace nixbuild::server {

bool has_realisations(model::OutputKind kind) noexcept {
  return kind == model::OutputKind::Floating || kind == model::OutputKind::Deferred;
}

/// Depth first with a stack of its own: a chain of derivations may be as long as a client likes.
void DerivationHashes::learn(const model::StorePath& path) {
  struct Step {
    model::StorePath path;
    model::Derivation derivation;
  };

  std::vector<Step> steps;
  const auto enter = [&](const model::StorePath& next) {
    if (known_.size() >= kGraphLimit) {
      throw Error(
          Reaction::Reject,
          "build.graph-limit",
          fmt::format("the request needs more than {} derivations to be looked at", kGraphLimit));
    }
    known_[next] = std::nullopt;
    steps.push_back({next, store::load_derivation(store_, account_, next)});
  };
  const auto hash_of_input = [this](const model::StorePath& input) {
    return *known_.at(input);
  };
  enter(path);
  while (!steps.empty()) {
    const auto& inputs = steps.back().derivation.input_derivations;
    const auto missing = std::find_if(inputs.begin(), inputs.end(), [this](const auto& input) {
      const auto found = known_.find(input.first);
      return found == known_.end() || !found->second;
    });
    if (missing == inputs.end()) {
      known_[steps.back().path] =
          model::hash_modulo(store_.dir(), steps.back().derivation, false, hash_of_input);
      steps.pop_back();
    } else if (known_.contains(missing->first)) {
      throw Error(
          Reaction::Reject,
          "build.cycle",
          fmt::format("derivation '{}' depends on itself", store_.dir().print(missing->first)));
    } else {
      enter(missing->first);
    }
  }
}

model::HashModulo DerivationHashes::of_input(const model::StorePath& input) {
  const auto found = known_.find(input);
  if (found == known_.end() || !found->second) {
    try {
      learn(input);
    } catch (...) {
      std::erase_if(known_, [](const auto& entry) { return !entry.second; });
      throw;
    }
  }
  return *known_.at(input);
}

std::map<std::string, Hash> DerivationHashes::names_of(const model::Derivation& derivation) {
  const auto hash_of_input = [this](const model::StorePath& input) {
    return of_input(input);
  };
  return model::hash_modulo(store_.dir(), derivation, true, hash_of_input).outputs;
}

void DerivationHashes::expect_paths(const model::StorePath& path,
                                    const model::Derivation& derivation) {
  const auto& dir = store_.dir();
  const auto name = model::derivation_name(path);
  std::map<std::string, model::StorePath> expected;
  switch (model::derivation_kind(derivation)) {
  case model::OutputKind::InputAddressed: {
    const auto hash_of_input = [this](const model::StorePath& input) {
      return of_input(input);
    };
    expected = model::input_addressed_paths(dir, name, derivation, hash_of_input);
    break;
  }
  case model::OutputKind::Fixed:
    for (const auto& [output, made] : derivation.outputs) {
      expected.emplace(
          output,
          model::make_content_addressed_path(
              dir, model::output_path_name(name, output), made.fixed_address(), {}, false));
    }
    break;
  case model::OutputKind::Floating:
  case model::OutputKind::Deferred:
  case model::OutputKind::Impure:
    return; // the path follows from what is built
  }
  for (const auto& [output, made] : derivation.outputs) {
    if (made.path && *made.path != expected.at(output)) {
      throw Error(Reaction::Reject,
                  "derivation.paths",
                  fmt::format("output '{}' of '{}' is called '{}', and would be '{}'",
                              output,
                              dir.print(path),
                              dir.print(*made.path),
                              dir.print(expected.at(output))));
    }
  }
}

std::map<std::string, std::optional<model::StorePath>>
output_paths(store::Store& store,
             store::AccountId account,
             DerivationHashes& hashes,
             const model::Derivation& derivation,
             model::SelfReferences self_references) {
  std::map<std::string, std::optional<model::StorePath>> paths;
  for (const auto& [name, output] : derivation.outputs) {
    paths.emplace(name, output.path);
  }
  if (!has_realisations(model::derivation_kind(derivation))) {
    return paths;
  }
  std::map<std::string, Hash> names;
  try {
    names = hashes.names_of(derivation);
  } catch (const Error&) {
    return paths; // a derivation behind it is missing or broken: nobody knows
  }
  for (auto& [name, path] : paths) {
    const store::RealisationKey key{model::hash_hex(names.at(name)), name, self_references};
    if (const auto found = store.db().realisation(account, key)) {
      path = found->path;
    }
  }
  return paths;
}

} // namespace nixbuild::server
