#pragma once

#include <nixbuild/base/api.hpp>

#include <string>
#include <string_view>

/// Public keys as OpenSSH writes them: `ssh-ed25519 AAAA… comment`. Pure.
namespace nixbuild::server {

struct PublicKey {
  std::string algorithm; ///< `ssh-ed25519`
  std::string blob;      ///< the bytes behind the base 64
  std::string comment;   ///< may be empty; without control characters
};

/// Longest text that is looked at.
inline constexpr std::size_t kPublicKeyBytes = 16 * 1024;

/// The one key of a `.pub` file or of a pasted line; empty lines and lines with `#` are passed
/// over. Ed25519, ECDSA (P-256, P-384, P-521), RSA of 2048 bits and more, and the security-key
/// forms of the first two. Errors: `key.malformed`, `key.options` (options stand in front of the
/// key), `key.private` (a private key was given), `key.unsupported` (DSA, certificates, short RSA).
[[nodiscard]] NIXBUILD_API PublicKey parse_public_key(std::string_view text);

/// Checks the bytes of a key against its algorithm. Errors as above.
NIXBUILD_API void check_public_key(const PublicKey& key);

/// `SHA256:…`, as `ssh-keygen -l` prints it.
[[nodiscard]] NIXBUILD_API std::string fingerprint_of(std::string_view blob);

/// `ssh-ed25519 AAAA…`
[[nodiscard]] NIXBUILD_API std::string public_key_text(std::string_view algorithm,
                                                       std::string_view blob);

} // namespace nixbuild::server
