#pragma once

#include <nixbuild/model/derivation.hpp>

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::build {

using Words = std::vector<std::string>;

/// What one output may be and refer to. A reference is a store path or the name of an output.
struct OutputRules {
  std::optional<std::uint64_t> max_size;         ///< NAR bytes
  std::optional<std::uint64_t> max_closure_size; ///< NAR bytes of everything reachable
  std::optional<Words> allowed_references;
  std::optional<Words> allowed_requisites;
  std::optional<Words> disallowed_references;
  std::optional<Words> disallowed_requisites;
  bool ignore_self = false; ///< the output itself is none of its requisites

  bool operator==(const OutputRules&) const = default;
};

/// The feature whose builders find a store to talk to.
inline constexpr const char* kRecursiveNix = "recursive-nix";

/// What a derivation asks of whoever builds it, from its environment or, where it has structured
/// attributes, from those. Source: protocol facts 5.4.
struct DerivationOptions {
  bool structured = false; ///< there is `__json`
  bool no_chroot = false;
  Words impure_host_dependencies;
  std::set<std::string> required_features;
  std::set<std::string> pass_as_file; ///< never with structured attributes
  Words impure_variables;

  /// `recursive-nix` is among the required features: the builder talks to a store.
  [[nodiscard]] bool talks_to_store() const { return required_features.contains(kRecursiveNix); }

  /// `exportReferencesGraph`: file name, or key of the structured attributes → store path texts.
  std::map<std::string, Words> references_graphs;
  std::map<std::string, OutputRules> rules; ///< by output; one for all of them unless structured
  std::set<std::string> undiscovered;       ///< outputs in which no references are looked for

  bool operator==(const DerivationOptions&) const = default;
};

/// What the text of structured attributes may be.
struct JsonLimits {
  std::size_t text_bytes = 16 * 1024 * 1024;
  std::size_t values = 1'000'000;
  int depth = 256;
};

/// Reads them. `name` is the derivation's, for messages. Throws BuildFailure (InputRejected) for an
/// attribute of the wrong type and for what parse_attributes refuses.
[[nodiscard]] DerivationOptions read_options(const model::BasicDerivation& derivation,
                                             std::string_view name);

/// The object in `__json`. Memory: about 40 times the text at worst. Throws BuildFailure
/// (InputRejected) for text that is no JSON object or exceeds the limits.
[[nodiscard]] nlohmann::json
parse_attributes(std::string_view text, std::string_view name, const JsonLimits& limits = {});

/// Words between blanks, tabs and line ends.
[[nodiscard]] Words words_of(std::string_view text);

} // namespace nixbuild::build
