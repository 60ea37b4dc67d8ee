#pragma once

#include <nixbuild/model/path_info.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Path infos as text, one line a value. Source: protocol facts 5.5.
namespace nixbuild::model {

enum class RegistrationForm : std::uint8_t {
  /// What `exportReferencesGraph` puts into a build: no hashes, no derivers.
  ReferencesGraph,
  /// What `nix-store --dump-db` writes and `--load-db` reads.
  Database,
};

/// `infos` in the order they shall have; Nix sorts by path.
[[nodiscard]] NIXBUILD_API std::string
print_registration(const StoreDir& dir, std::span<const PathInfo> infos, RegistrationForm form);

/// Reads the Database form; what it does not carry has its default. References come out sorted.
/// Memory stays below a small multiple of the text. Errors: `registration.syntax` (with the line),
/// `hash.*`, `store-path.*`.
[[nodiscard]] NIXBUILD_API std::vector<PathInfo> parse_registration(const StoreDir& dir,
                                                                    std::string_view text);

} // namespace nixbuild::model
