#pragma once

#include <nixbuild/model/derivation.hpp>
#include <nixbuild/store/store.hpp>

#include <map>
#include <optional>
#include <string>

namespace nixbuild::server {

/// The hashes that name outputs of derivations in an account's store, each computed once. They cost
/// a look at every derivation behind the one asked for, down to those with fixed outputs. Used by
/// one thread at a time; blocking.
class DerivationHashes {
public:
  /// The store outlives it.
  DerivationHashes(store::Store& store, store::AccountId account)
      : store_(store), account_(account) {}

  /// What names the realisations of each output. Errors: `store.invalid-path` (a derivation behind
  /// it is not valid), `build.cycle`, `build.graph-limit`, `derivation.*`.
  [[nodiscard]] std::map<std::string, Hash> names_of(const model::Derivation& derivation);

  /// Error `derivation.paths` when an output has another path than its derivation gives it: an
  /// input-addressed one by what it is made from, a fixed one by its hash. Others as names_of.
  void expect_paths(const model::StorePath& path, const model::Derivation& derivation);

private:
  [[nodiscard]] model::HashModulo of_input(const model::StorePath& input);
  void learn(const model::StorePath& path);

  store::Store& store_;
  store::AccountId account_;
  std::map<model::StorePath, std::optional<model::HashModulo>> known_; ///< absent: being computed
};

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
