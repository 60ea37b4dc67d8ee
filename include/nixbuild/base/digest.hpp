#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace nixbuild {

enum class HashAlgorithm : std::uint8_t { Md5, Sha1, Sha256, Sha512 };

/// Bytes of a digest of this kind: 16, 20, 32 or 64.
[[nodiscard]] NIXBUILD_API std::size_t digest_size(HashAlgorithm algorithm) noexcept;
/// `md5`, `sha1`, `sha256`, `sha512`.
[[nodiscard]] NIXBUILD_API std::string_view name_of(HashAlgorithm algorithm) noexcept;
/// The algorithm of that exact lower-case name, or nothing.
[[nodiscard]] NIXBUILD_API std::optional<HashAlgorithm>
hash_algorithm_of(std::string_view name) noexcept;

/// A digest together with its algorithm. A value; default is the all-zero SHA-256.
class NIXBUILD_API Hash {
public:
  Hash() = default;
  /// Error `hash.length` when `digest` has not `digest_size(algorithm)` bytes.
  Hash(HashAlgorithm algorithm, ByteView digest);

  [[nodiscard]] HashAlgorithm algorithm() const noexcept { return algorithm_; }

  [[nodiscard]] ByteView bytes() const noexcept {
    return ByteView(bytes_).first(digest_size(algorithm_));
  }

  auto operator<=>(const Hash&) const = default;

private:
  HashAlgorithm algorithm_ = HashAlgorithm::Sha256;
  std::array<std::uint8_t, 64> bytes_{};
};

/// Streaming digest (OpenSSL). Not thread safe; movable.
class NIXBUILD_API Hasher {
public:
  explicit Hasher(HashAlgorithm algorithm);
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(ByteView bytes);
  /// Ends the digest; the object must not be used afterwards except to be destroyed or assigned to.
  [[nodiscard]] Hash finish();

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Digest of bytes at hand.
[[nodiscard]] NIXBUILD_API Hash hash_of(HashAlgorithm algorithm, ByteView bytes);

} // namespace nixbuild
