#pragma once

#include <nixbuild/model/derivation.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>

namespace nixbuild::store {

struct StoreState;

/// Derivations that one walk may look at, and hashes that are kept.
inline constexpr std::size_t kMostHashes = 250'000;

/// Hashes of derivations that follow from their paths alone: the file is what its path says, and so
/// are all behind it. They hold for every account and for ever. Thread safe.
class KnownHashes {
public:
  [[nodiscard]] std::optional<model::HashModulo> find(const model::StorePath& path) const;
  void add(const model::StorePath& path, const model::HashModulo& modulo);

private:
  mutable std::mutex mutex_;
  std::map<model::StorePath, model::HashModulo> known_;
};

/// Computes what derivations contribute to the hashes of those that use them, each once.
class HashWalk {
public:
  /// `arriving`: paths that count as valid already.
  HashWalk(StoreState& state, AccountId account, std::span<const model::PathInfo> arriving = {});

  [[nodiscard]] model::HashModulo of(const model::StorePath& path);

  struct Loaded {
    model::Derivation derivation;
    bool named_by_contents = false; ///< the path is made of exactly these contents
  };

  [[nodiscard]] Loaded load(const model::StorePath& path) const;
  /// Saves `of` the reading.
  void learn(const model::StorePath& path, const Loaded& loaded);

private:
  struct Known {
    model::HashModulo modulo;
    bool certain = false; ///< fit for KnownHashes
  };

  struct Step {
    model::StorePath path;
    Loaded loaded;
  };

  [[nodiscard]] const Known* find(const model::StorePath& path);
  void enter(std::vector<Step>& steps, const model::StorePath& path);
  void descend(const model::StorePath& path);
  void conclude(const model::StorePath& path, const Loaded& loaded);

  StoreState& state_;
  AccountId account_;
  std::map<model::StorePath, const model::PathInfo*> arriving_;
  std::map<model::StorePath, std::optional<Known>> known_; ///< absent: being computed
  std::size_t uncertain_ = 0;
};

/// Of derivations that are about to be registered. Those that cannot be computed yet are let in;
/// they are looked at again before anything is built. Error `derivation.paths`.
void expect_outputs(StoreState& state, AccountId account, std::span<const model::PathInfo> infos);

} // namespace nixbuild::store
