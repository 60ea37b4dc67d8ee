#include "derivation_hashes.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <utility>

namespace nixbuild::server {

bool has_realisations(model::OutputKind kind) noexcept {
  return kind == model::OutputKind::Floating || kind == model::OutputKind::Deferred;
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
