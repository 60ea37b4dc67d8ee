#pragma once

#include <nixbuild/model/store_path.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// What a client wants to have: a path, or outputs of a derivation. Source: protocol
/// facts 2.8, 3.4.
namespace nixbuild::protocol {

struct DerivedPath {
  enum class Wants : std::uint8_t {
    Path,       ///< the object at `path` itself, also where it is a derivation file
    AllOutputs, ///< every output of the derivation at `path`
    Outputs,    ///< those of its outputs that `outputs` names
    /// Outputs of the derivation that is an output of the one at `path` (`drv!out!out`): `outputs`
    /// holds the names between the marks, from the first on, the last of them as it was written.
    Nested,
  };

  model::StorePath path; ///< a derivation unless `wants` is Path
  Wants wants = Wants::Path;
  std::vector<std::string>
      outputs; ///< in the sender's order; empty unless `wants` is one of the last two

  bool operator==(const DerivedPath&) const = default;
};

/// How it is written down.
enum class DerivedPathForm : std::uint8_t {
  Marked, ///< worker 1.30 and later: `path` is the object itself, `drv!out,dev`, `drv!*`
  Bare,   ///< serve, and worker below 1.30: a `.drv` without outputs stands for all of them
};

/// Errors (Reject): `derived-path.form` (no or invalid output names, outputs of a path that is no
/// derivation), `store-path.*`.
[[nodiscard]] NIXBUILD_API DerivedPath parse_derived_path(const model::StoreDir& dir,
                                                          std::string_view text,
                                                          DerivedPathForm form);
/// Error `derived-path.form` for a derivation file itself in the form Bare, which cannot say it.
[[nodiscard]] NIXBUILD_API std::string
print(const model::StoreDir& dir, const DerivedPath& path, DerivedPathForm form);

} // namespace nixbuild::protocol
