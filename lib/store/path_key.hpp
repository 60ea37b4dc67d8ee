#pragma once

#include <nixbuild/model/store_path.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace nixbuild::store {

/// The hash part of a store path as 20 bytes, most significant first, so that keys order as the
/// texts do. (This is the digest backwards: Nix writes its last byte first.)
using PathKey = std::array<std::uint8_t, 20>;

/// `hash_part` is 32 characters of Nix base 32; a foreign character counts as zero.
[[nodiscard]] PathKey key_of_hash_part(std::string_view hash_part) noexcept;

[[nodiscard]] inline PathKey key_of(const model::StorePath& path) noexcept {
  return key_of_hash_part(path.hash_part());
}

/// Appends the 32 characters of a key of 20 bytes.
void append_hash_part(ByteView key, std::string& out);

/// The path of a key of 20 bytes and a name. Errors as StorePath::parse.
[[nodiscard]] model::StorePath path_of(ByteView key, std::string_view name);

} // namespace nixbuild::store
