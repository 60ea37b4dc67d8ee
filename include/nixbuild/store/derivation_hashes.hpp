#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/store/store.hpp>

#include <map>
#include <memory>
#include <string>

namespace nixbuild::store {

/// The hashes that name outputs of derivations in an account's store. They cost a look at every
/// derivation behind the one asked for, down to those with fixed outputs; the store keeps what it
/// has computed of files that are what their paths say. Used by one thread at a time; blocking.
class NIXBUILD_API DerivationHashes {
public:
  /// The store outlives it.
  DerivationHashes(Store& store, AccountId account);
  ~DerivationHashes();
  DerivationHashes(const DerivationHashes&) = delete;
  DerivationHashes& operator=(const DerivationHashes&) = delete;

  /// What names the realisations of each output. Errors: `store.invalid-path` (a derivation behind
  /// it is not valid), `build.cycle`, `build.graph-limit`, `derivation.*`.
  [[nodiscard]] std::map<std::string, Hash> names_of(const model::Derivation& derivation);

  /// As model::outputs_follow, with the derivations behind it from the store. Error
  /// `derivation.paths` when an output has another path than its derivation gives it. Others as
  /// names_of.
  bool expect_paths(const model::StorePath& path, const model::Derivation& derivation);
  /// The same for one that may be without some of what is behind it: what cannot be computed is
  /// false. Errors: `derivation.paths`, `derivation.deferred`.
  [[nodiscard]] bool outputs_follow(const model::StorePath& path,
                                    const model::Derivation& derivation);

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::store
