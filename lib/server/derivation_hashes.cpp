#include "derivation_hashes.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <utility>

namespace nixbuild::server {

bool has_realisations(model::OutputKind kind) noexcept {
  return kind == model::OutputKind::Floating || kind == model::OutputKind::Deferred;
}

bool has_static_paths(model::OutputKind kind) noexcept {
  return kind == model::OutputKind::InputAddressed || kind == model::OutputKind::Fixed;
}

void add_realisation(std::vector<store::StoredRealisation>& made,
                     const Hash& hash,
                     const std::string& name,
                     const model::StorePath& path,
                     std::span<const model::SelfReferences> forms,
                     const model::SigningKey* key) {
  model::Realisation realisation{path, {}};
  if (key != nullptr) {
    realisation.signatures.push_back(key->sign(model::realisation_fingerprint(hash, name, path)));
  }
  for (const auto form : forms) {
    made.push_back({{model::hash_hex(hash), name, form}, realisation});
  }
}

void note_static_outputs(store::Store& store,
                         store::AccountId account,
                         DerivationHashes& hashes,
                         const model::StorePath& derivation,
                         const model::SigningKey* key) {
  const auto file = store::load_derivation(store, account, derivation);
  if (!has_static_paths(model::derivation_kind(file))) {
    return;
  }
  const bool proven = hashes.outputs_follow(derivation, file);
  const auto names = hashes.names_of(file);
  std::vector<store::StoredRealisation> made;
  for (const auto& [name, output] : file.outputs) {
    if (!store.db().valid_paths(account, {&*output.path, 1}).empty()) {
      for (const auto form : kEveryForm) {
        made.push_back({{derivation.base_name(), name, form}, {*output.path, {}}});
      }
      add_realisation(made, names.at(name), name, *output.path, kEveryForm, proven ? key : nullptr);
    }
  }
  store.db().register_realisations(account, made);
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
