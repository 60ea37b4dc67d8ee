#pragma once

#include <nixbuild/base/digest.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/store_path.hpp>

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::model {

/// How an output's path comes to be. Source: protocol facts 4.4.
enum class OutputKind : std::uint8_t {
  InputAddressed, ///< path set, no method, no hash
  Fixed,          ///< path, method and hash set
  Floating,       ///< only the method set
  Impure,         ///< method set and hash `impure`
  Deferred,       ///< nothing set
};

/// One output as it stands in a derivation: three texts, kept as they came so that writing them
/// again gives the same bytes.
struct DerivationOutput {
  std::optional<StorePath> path;
  std::string method_algorithm; ///< `sha256`, `r:sha256`, … or empty
  std::string hash;             ///< hexadecimal, `impure`, or empty

  /// Error `derivation.output` when the three texts make none of the kinds.
  [[nodiscard]] NIXBUILD_API OutputKind kind() const;
  /// The content address of a Fixed output. Errors: `derivation.output`, `hash.*`.
  [[nodiscard]] NIXBUILD_API ContentAddress fixed_address() const;

  bool operator==(const DerivationOutput&) const = default;
};

/// A derivation without its input derivations: what a builder needs and what goes over the wire.
struct BasicDerivation {
  std::map<std::string, DerivationOutput> outputs;
  StorePaths input_sources; ///< sorted, unique
  std::string platform;
  std::string builder;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;

  bool operator==(const BasicDerivation&) const = default;
};

/// Its builder is one that Nix has inside (`builtin:fetchurl`), whatever the platform. Source:
/// protocol facts 5.7.
[[nodiscard]] inline bool is_builtin(const BasicDerivation& derivation) noexcept {
  return derivation.builder.starts_with("builtin:");
}

struct Derivation : BasicDerivation {
  /// Input derivation → the outputs of it that are used.
  std::map<StorePath, std::set<std::string>> input_derivations;

  bool operator==(const Derivation&) const = default;
};

/// Limits of the ATerm parser. Memory stays below a small multiple of the text.
struct DerivationLimits {
  std::size_t text_bytes = 64 * 1024 * 1024;
  std::size_t elements = 1'000'000; ///< of all lists together
};

/// Reads the text of a `.drv` file. Errors: `derivation.syntax` (with the offset),
/// `derivation.limit`, `derivation.duplicate` (keys), `derivation.unsupported`
/// (`DrvWithVersion`), `derivation.output`, `store-path.*`. Escapes that Nix never writes (`\q`, a
/// raw line feed) are read as Nix reads them. Source: protocol facts 4.5.
[[nodiscard]] NIXBUILD_API Derivation parse_derivation(const StoreDir& dir,
                                                       std::string_view text,
                                                       const DerivationLimits& limits = {});
/// Writes it; `parse_derivation` of the result gives the same value back.
[[nodiscard]] NIXBUILD_API std::string print_derivation(const StoreDir& dir,
                                                        const Derivation& derivation);

/// All outputs of one kind, at least one, exactly one and named `out` when Fixed, floating outputs
/// of one algorithm. Returns that kind. Errors: `derivation.outputs`. Source: protocol facts 4.4.
[[nodiscard]] NIXBUILD_API OutputKind derivation_kind(const BasicDerivation& derivation);

/// The store path of the `.drv` file itself. `name` without `.drv`.
[[nodiscard]] NIXBUILD_API StorePath derivation_path(const StoreDir& dir,
                                                     std::string_view name,
                                                     const Derivation& derivation);

/// What an input derivation contributes to the hash of the derivation that uses it.
struct HashModulo {
  /// Output name → hash; for an input-addressed derivation every output has the same one.
  std::map<std::string, Hash> outputs;
  /// Floating, impure or deferred, or behind such an input: no output path follows from the hashes.
  /// They still name what a realisation is of.
  bool deferred = false;
};

/// Looks up the modulo hash of an input derivation. Called once per input.
using InputModulo = std::function<HashModulo(const StorePath& derivation)>;

/// Unmasked for an input of another derivation; masked for output paths and realisations.
/// `masked` blanks output paths and the variables named like outputs. Error `derivation.outputs`
/// when an input lacks an output that is used. Source: protocol facts 4.6.
[[nodiscard]] NIXBUILD_API HashModulo hash_modulo(const StoreDir& dir,
                                                  const Derivation& derivation,
                                                  bool masked,
                                                  const InputModulo& inputs);

/// Output paths that an input-addressed derivation must have, whether they are filled in already or
/// not. `name` is the derivation's. Errors: `derivation.outputs` (another kind), and
/// `derivation.deferred` when they depend on an input that has no hash.
[[nodiscard]] NIXBUILD_API std::map<std::string, StorePath>
input_addressed_paths(const StoreDir& dir,
                      std::string_view name,
                      const Derivation& derivation,
                      const InputModulo& inputs);

/// Compares what a derivation says of its outputs with what follows from it: the paths of
/// input-addressed and fixed ones, and the variables named like outputs, which the hash behind
/// those paths leaves out. `path` is that of the `.drv` and gives the name. False where it cannot
/// tell: a floating derivation whose variable of an output's name is not that output's placeholder
/// shares its hash with others. Error `derivation.paths` for what is wrong, else those of
/// input_addressed_paths. Source: protocol facts 4.6.
[[nodiscard]] NIXBUILD_API bool outputs_follow(const StoreDir& dir,
                                               const StorePath& path,
                                               const Derivation& derivation,
                                               const InputModulo& inputs);

/// 64 hexadecimal characters that name the outputs of a received derivation in serve 2.6 and 2.7.
/// Source: protocol facts 2.5, "which hash goes in the key".
[[nodiscard]] NIXBUILD_API std::map<std::string, Hash>
realisation_hashes(const StoreDir& dir, const BasicDerivation& derivation);

/// What an output may be called: 1 to 211 of the characters of store path names.
[[nodiscard]] NIXBUILD_API bool valid_output_name(std::string_view output) noexcept;

/// The name of the path without `.drv`; a view into `derivation`. Error `derivation.path` when it
/// does not end so.
[[nodiscard]] NIXBUILD_API std::string_view derivation_name(const StorePath& derivation);

/// `drvName` for `out`, else `drvName-output`.
[[nodiscard]] NIXBUILD_API std::string output_path_name(std::string_view derivation_name,
                                                        std::string_view output);

/// The place an output is built at when its path is not known before. Error `derivation.path` when
/// `derivation` does not end in `.drv`. Source: protocol facts 4.3, 5.10.
[[nodiscard]] NIXBUILD_API StorePath scratch_path(const StoreDir& dir,
                                                  const StorePath& derivation,
                                                  std::string_view output);

/// `/` + nix32 of the placeholder hash of an own output. Source: protocol facts 4.10.
[[nodiscard]] NIXBUILD_API std::string output_placeholder(std::string_view output);
/// The placeholder of an output of an input derivation whose path is not known before it is built.
/// Error `derivation.path` when `derivation` is none. Source: protocol facts 4.10.
[[nodiscard]] NIXBUILD_API std::string input_placeholder(const StorePath& derivation,
                                                         std::string_view output);

} // namespace nixbuild::model
