#include <nixbuild/base/ed25519.hpp>
#include <nixbuild/base/error.hpp>

#include <sodium.h>

#include <algorithm>

namespace nixbuild {

namespace {

void require_sodium() {
  if (sodium_init() < 0) {
    throw Error(Reaction::Internal, "ed25519.init", "libsodium cannot be initialised");
  }
}

} // namespace

Ed25519SecretKey ed25519_generate() {
  require_sodium();
  Ed25519PublicKey key{};
  Ed25519SecretKey secret{};
  crypto_sign_ed25519_keypair(key.data(), secret.data());
  return secret;
}

Ed25519SecretKey ed25519_from_seed(const std::array<std::uint8_t, 32>& seed) {
  require_sodium();
  Ed25519PublicKey key{};
  Ed25519SecretKey secret{};
  crypto_sign_ed25519_seed_keypair(key.data(), secret.data(), seed.data());
  return secret;
}

Ed25519PublicKey ed25519_public_key(const Ed25519SecretKey& secret) {
  Ed25519PublicKey key{};
  std::copy(secret.begin() + 32, secret.end(), key.begin());
  return key;
}

Ed25519Signature ed25519_sign(const Ed25519SecretKey& secret, ByteView message) {
  require_sodium();
  Ed25519Signature signature{};
  crypto_sign_ed25519_detached(
      signature.data(), nullptr, message.data(), message.size(), secret.data());
  return signature;
}

bool ed25519_verify(const Ed25519PublicKey& key,
                    ByteView message,
                    const Ed25519Signature& signature) {
  require_sodium();
  return crypto_sign_ed25519_verify_detached(
             signature.data(), message.data(), message.size(), key.data()) == 0;
}

} // namespace nixbuild
