#pragma once

#include <nixbuild/model/derivation.hpp>

#include <map>
#include <string>

namespace nixbuild::model {

/// Where the outputs of a derivation's inputs have come out: input derivation → output → path.
using InputPaths = std::map<StorePath, std::map<std::string, StorePath>>;

/// A derivation whose inputs are all paths.
struct ResolvedDerivation {
  StorePath path; ///< of its `.drv`, which need not exist where it is another derivation
  BasicDerivation derivation;
};

/// True when Nix builds another derivation in its place, which stands for what the inputs came out
/// as: deferred ones, and floating and impure ones that have input derivations. Source: protocol
/// facts 4.4, 5.10.
[[nodiscard]] NIXBUILD_API bool must_be_resolved(const Derivation& derivation);

/// `derivation` with the wanted outputs of its inputs as sources in place of the input derivations,
/// their placeholders replaced wherever they stand, and the output paths of a deferred one filled
/// in. `path` is that of the unresolved `.drv` and gives the name. Errors: `derivation.outputs`
/// (`inputs` lacks an output that is used), `derivation.path`. Source: protocol facts 4.10.
[[nodiscard]] NIXBUILD_API ResolvedDerivation resolve_derivation(const StoreDir& dir,
                                                                 const StorePath& path,
                                                                 const Derivation& derivation,
                                                                 const InputPaths& inputs);

} // namespace nixbuild::model
