#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/signature.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace nixbuild::model {

namespace {

[[noreturn]] void reject_key(std::string message) {
  throw Error(Reaction::Reject, "signature.key", std::move(message));
}

/// Splits `name:base64` and decodes exactly `Size` bytes. Messages never show key material.
template <std::size_t Size>
std::pair<std::string, std::array<std::uint8_t, Size>> read_named(std::string_view text,
                                                                  std::string_view what) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos || colon == 0) {
    reject_key(fmt::format("a {} has the form name:base64", what));
  }
  const auto bytes = base64_decode(text.substr(colon + 1));
  if (bytes.size() != Size) {
    reject_key(fmt::format("a {} has {} bytes, not {}", what, Size, bytes.size()));
  }
  std::pair<std::string, std::array<std::uint8_t, Size>> out;
  out.first = text.substr(0, colon);
  std::copy(bytes.begin(), bytes.end(), out.second.begin());
  return out;
}

bool path_follows_from_contents(const StoreDir& dir, const PathInfo& info) {
  try {
    StorePaths others = info.references;
    const auto self = std::remove(others.begin(), others.end(), info.path);
    const bool self_reference = self != others.end();
    others.erase(self, others.end());
    const auto address = parse_content_address(info.content_address);
    return info.path ==
           make_content_addressed_path(dir, info.path.name(), address, others, self_reference);
  } catch (const Error&) {
    return false; // Not an address, or one that does not allow these references.
  }
}

} // namespace

SigningKey SigningKey::parse(std::string_view text) {
  const auto [name, secret] = read_named<64>(text, "secret key");
  std::array<std::uint8_t, 32> seed{};
  std::copy_n(secret.begin(), seed.size(), seed.begin());
  if (ed25519_from_seed(seed) != secret) {
    reject_key(fmt::format("the halves of secret key '{}' do not belong together", name));
  }
  return SigningKey(name, secret);
}

SigningKey SigningKey::generate(std::string name) {
  if (name.empty() || name.find(':') != std::string::npos) {
    reject_key("the name of a key is not empty and has no colon");
  }
  return SigningKey(std::move(name), ed25519_generate());
}

std::string SigningKey::secret_text() const {
  return fmt::format("{}:{}", name_, base64_encode(secret_));
}

std::string SigningKey::public_text() const {
  return fmt::format("{}:{}", name_, base64_encode(ed25519_public_key(secret_)));
}

std::string SigningKey::sign(std::string_view message) const {
  return fmt::format("{}:{}", name_, base64_encode(ed25519_sign(secret_, bytes_of(message))));
}

VerificationKey VerificationKey::parse(std::string_view text) {
  const auto [name, key] = read_named<32>(text, "public key");
  return VerificationKey(name, key);
}

bool VerificationKey::verify(std::string_view message, std::string_view signature) const noexcept {
  try {
    const auto [name, bytes] = read_named<64>(signature, "signature");
    return name == name_ && ed25519_verify(key_, bytes_of(message), bytes);
  } catch (const std::exception&) {
    return false;
  }
}

bool is_trusted(const StoreDir& dir, const PathInfo& info, std::span<const VerificationKey> keys) {
  if (!info.content_address.empty() && path_follows_from_contents(dir, info)) {
    return true;
  }
  const std::string message = fingerprint(dir, info);
  for (const auto& signature : info.signatures) {
    for (const auto& key : keys) {
      if (key.verify(message, signature)) {
        return true;
      }
    }
  }
  return false;
}

} // namespace nixbuild::model
