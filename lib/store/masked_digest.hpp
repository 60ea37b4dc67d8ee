#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/digest.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::store {

/// Digest of a stream in which each occurrence of a path's own hash part counts as 32 zero bytes,
/// in both forms that Nix versions use: with and without the occurrences' offsets (`|` and a
/// decimal number each) appended. Constant memory but for 8 bytes an occurrence, at most 8 MiB.
/// Source: protocol facts 4.8.
class MaskedDigest {
public:
  static constexpr std::size_t kMostOccurrences = 1024 * 1024;

  struct Digests {
    Hash plain;
    Hash with_offsets;
  };

  /// `hash_part` has 32 characters.
  MaskedDigest(HashAlgorithm algorithm, std::string_view hash_part);

  /// Error `store.content-address` beyond kMostOccurrences.
  void update(ByteView bytes);
  [[nodiscard]] Digests finish();

private:
  void take(std::size_t count);

  std::string own_;
  Hasher plain_;
  Hasher with_offsets_;
  std::string window_;         ///< bytes that were not digested yet
  std::uint64_t position_ = 0; ///< of the window in the stream
  std::vector<std::uint64_t> occurrences_;
};

} // namespace nixbuild::store
