#pragma once

#include <nixbuild/base/digest.hpp>

#include <optional>
#include <string>
#include <string_view>

/// The ways Nix writes a hash down. Source: protocol facts 1 and 4.2.
namespace nixbuild::model {

/// Bare lower-case hexadecimal.
[[nodiscard]] NIXBUILD_API std::string hash_hex(const Hash& hash);
/// `sha256:<nix32>`.
[[nodiscard]] NIXBUILD_API std::string hash_nix32(const Hash& hash);
/// `sha256-<base64>`.
[[nodiscard]] NIXBUILD_API std::string hash_sri(const Hash& hash);

/// Reads `algo:<hex|nix32|base64>`, the SRI form `algo-<base64>`, or, when `assumed` is given, the
/// bare digest; the encoding is told by the length. Errors: `hash.algorithm` (unknown or missing),
/// `hash.length`, `encoding.*`. A prefix that differs from `assumed` is `hash.algorithm`.
[[nodiscard]] NIXBUILD_API Hash parse_hash(std::string_view text,
                                           std::optional<HashAlgorithm> assumed = std::nullopt);

} // namespace nixbuild::model
