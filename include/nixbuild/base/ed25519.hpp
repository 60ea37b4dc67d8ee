#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <array>
#include <cstdint>

namespace nixbuild {

using Ed25519PublicKey = std::array<std::uint8_t, 32>;
/// Seed followed by the public key, as libsodium and Nix store it.
using Ed25519SecretKey = std::array<std::uint8_t, 64>;
using Ed25519Signature = std::array<std::uint8_t, 64>;

/// A key pair from the system's random source.
[[nodiscard]] NIXBUILD_API Ed25519SecretKey ed25519_generate();
/// The key pair of a 32-byte seed. For tests and for derived keys.
[[nodiscard]] NIXBUILD_API Ed25519SecretKey
ed25519_from_seed(const std::array<std::uint8_t, 32>& seed);
[[nodiscard]] NIXBUILD_API Ed25519PublicKey ed25519_public_key(const Ed25519SecretKey& secret);
[[nodiscard]] NIXBUILD_API Ed25519Signature ed25519_sign(const Ed25519SecretKey& secret,
                                                         ByteView message);
[[nodiscard]] NIXBUILD_API bool
ed25519_verify(const Ed25519PublicKey& key, ByteView message, const Ed25519Signature& signature);

} // namespace nixbuild
