#pragma once

#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/signature.hpp>
#include <nixbuild/store/derivation_hashes.hpp>

#include <array>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nixbuild::server {

using store::DerivationHashes;

/// Whether outputs of that kind are found by realisations.
[[nodiscard]] bool has_realisations(model::OutputKind kind) noexcept;

/// Whether the paths of such outputs follow from the derivation.
[[nodiscard]] bool has_static_paths(model::OutputKind kind) noexcept;

/// Appends what is told to those who ask where the output `name` of the derivation with this hash
/// is; signed with `key`, if any. `forms`: those of the Nix versions that it holds for.
void add_realisation(std::vector<store::StoredRealisation>& made,
                     const Hash& hash,
                     const std::string& name,
                     const model::StorePath& path,
                     std::span<const model::SelfReferences> forms,
                     const model::SigningKey* key);

/// Where paths are static, Nix versions do not differ.
inline constexpr std::array kEveryForm{model::SelfReferences::Plain,
                                       model::SelfReferences::WithOffsets};

/// For those who ask by hash, or by the derivation, for outputs whose paths are static, which
/// nobody has to look up: notes where those of `derivation` are that are valid. Others are left as
/// they are. Blocking.
void note_static_outputs(store::Store& store,
                         store::AccountId account,
                         DerivationHashes& hashes,
                         const model::StorePath& derivation,
                         const model::SigningKey* key);

/// Where the outputs of a derivation are, valid or not, as far as that is known. `hashes` is asked
/// where paths do not follow from the derivation; where it cannot answer, they are not known.
[[nodiscard]] std::map<std::string, std::optional<model::StorePath>>
output_paths(store::Store& store,
             store::AccountId account,
             DerivationHashes& hashes,
             const model::Derivation& derivation,
             model::SelfReferences self_references);

} // namespace nixbuild::server
