#pragma once

#include <nixbuild/base/ed25519.hpp>
#include <nixbuild/model/path_info.hpp>

#include <span>
#include <string>
#include <string_view>

namespace nixbuild::model {

/// `name:base64` forms of signing keys. Source: protocol facts 4.9.
class NIXBUILD_API SigningKey {
public:
  /// Errors: `signature.key` (form, length), `encoding.base64`.
  [[nodiscard]] static SigningKey parse(std::string_view text);
  [[nodiscard]] static SigningKey generate(std::string name);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  [[nodiscard]] std::string secret_text() const;
  [[nodiscard]] std::string public_text() const;
  /// `name:base64` over `message`.
  [[nodiscard]] std::string sign(std::string_view message) const;

private:
  SigningKey(std::string name, const Ed25519SecretKey& secret)
      : name_(std::move(name)), secret_(secret) {}

  std::string name_;
  Ed25519SecretKey secret_;
};

class NIXBUILD_API VerificationKey {
public:
  [[nodiscard]] static VerificationKey parse(std::string_view text);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  /// False as well when the signature is malformed or by another key name.
  [[nodiscard]] bool verify(std::string_view message, std::string_view signature) const noexcept;

private:
  VerificationKey(std::string name, const Ed25519PublicKey& key)
      : name_(std::move(name)), key_(key) {}

  std::string name_;
  Ed25519PublicKey key_;
};

/// True when the path is content-addressed or one signature verifies under one of the keys.
[[nodiscard]] NIXBUILD_API bool
is_trusted(const StoreDir& dir, const PathInfo& info, std::span<const VerificationKey> keys);

} // namespace nixbuild::model
