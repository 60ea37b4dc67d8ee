#include <nixbuild/base/error.hpp>
#include <nixbuild/model/resolve.hpp>

#include <fmt/format.h>

#include <utility>
#include <vector>

namespace nixbuild::model {

namespace {

using Rewrites = std::vector<std::pair<std::string, std::string>>;

std::string rewritten(std::string text, const Rewrites& rewrites) {
  for (const auto& [from, to] : rewrites) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
  }
  return text;
}

void rewrite(BasicDerivation& derivation, const Rewrites& rewrites) {
  derivation.builder = rewritten(std::move(derivation.builder), rewrites);
  for (auto& argument : derivation.arguments) {
    argument = rewritten(std::move(argument), rewrites);
  }
  std::map<std::string, std::string> environment;
  for (auto& [name, value] : derivation.environment) {
    environment.emplace(rewritten(name, rewrites), rewritten(std::move(value), rewrites));
  }
  derivation.environment = std::move(environment);
}

const StorePath& path_of(const InputPaths& inputs, const StorePath& path, const std::string& name) {
  const auto input = inputs.find(path);
  if (input != inputs.end()) {
    const auto output = input->second.find(name);
    if (output != input->second.end()) {
      return output->second;
    }
  }
  throw Error(
      Reaction::Reject,
      "derivation.outputs",
      fmt::format("output '{}' of input derivation '{}' is not known", name, path.base_name()));
}

} // namespace

bool must_be_resolved(const Derivation& derivation) {
  switch (derivation_kind(derivation)) {
  case OutputKind::Deferred:
    return true;
  case OutputKind::Floating:
  case OutputKind::Impure:
    return !derivation.input_derivations.empty();
  case OutputKind::Fixed:
  case OutputKind::InputAddressed:
    break;
  }
  return false;
}

ResolvedDerivation resolve_derivation(const StoreDir& dir,
                                      const StorePath& path,
                                      const Derivation& derivation,
                                      const InputPaths& inputs) {
  const auto name = derivation_name(path);
  Derivation resolved;
  BasicDerivation& basic = resolved; // all there is of it: its inputs are paths
  const BasicDerivation& given = derivation;
  basic = given;
  // Of inputs whose paths are known before, which is all that others may have, there are no
  // placeholders: ordinary derivations are not searched for them.
  const bool searched = derivation_kind(derivation) != OutputKind::InputAddressed;
  Rewrites rewrites;
  for (const auto& [input, outputs] : derivation.input_derivations) {
    for (const auto& output : outputs) {
      const auto& made = path_of(inputs, input, output);
      resolved.input_sources.push_back(made);
      if (searched) {
        rewrites.emplace_back(input_placeholder(input, output), dir.print(made));
      }
    }
  }
  sort_unique(resolved.input_sources);
  if (searched) {
    rewrite(resolved, rewrites);
  }
  if (derivation_kind(resolved) == OutputKind::Deferred) {
    for (auto& [output, made] : input_addressed_paths(dir, name, resolved, nullptr)) {
      resolved.environment[output] = dir.print(made);
      resolved.outputs.at(output).path = made;
    }
  }
  auto resolved_path = must_be_resolved(derivation) ? derivation_path(dir, name, resolved) : path;
  return {std::move(resolved_path), std::move(basic)};
}

} // namespace nixbuild::model
