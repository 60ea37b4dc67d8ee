#pragma once

#include <nixbuild/model/derivation.hpp>
#include <nixbuild/store/derivation_hashes.hpp>

#include <map>
#include <optional>
#include <string>

namespace nixbuild::server {

using store::DerivationHashes;

/// Whether outputs of that kind are found by realisations.
[[nodiscard]] bool has_realisations(model::OutputKind kind) noexcept;

/// Where the outputs of a derivation are, valid or not, as far as that is known. `hashes` is asked
/// where paths do not follow from the derivation; where it cannot answer, they are not known.
[[nodiscard]] std::map<std::string, std::optional<model::StorePath>>
output_paths(store::Store& store,
             store::AccountId account,
             DerivationHashes& hashes,
             const model::Derivation& derivation,
             model::SelfReferences self_references);

} // namespace nixbuild::server
