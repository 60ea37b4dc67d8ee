#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace nixbuild {

/// Lower-case hexadecimal.
[[nodiscard]] NIXBUILD_API std::string hex_encode(ByteView bytes);
/// Accepts both cases. Errors: `encoding.hex` (odd length, foreign character).
[[nodiscard]] NIXBUILD_API Bytes hex_decode(std::string_view text);

/// RFC 4648 base 64 with padding.
[[nodiscard]] NIXBUILD_API std::string base64_encode(ByteView bytes);
/// Padding is required, white space refused. Errors: `encoding.base64`.
[[nodiscard]] NIXBUILD_API Bytes base64_decode(std::string_view text);

/// Nix's own base 32 (alphabet without e, o, t, u; last group first). Source: protocol facts 4.2.
[[nodiscard]] NIXBUILD_API std::string nix32_encode(ByteView bytes);
/// Decodes to exactly `size` bytes. Errors: `encoding.nix32` (length is not
/// `nix32_length(size)`, foreign character, leftover bits that are not zero).
[[nodiscard]] NIXBUILD_API Bytes nix32_decode(std::string_view text, std::size_t size);

/// Characters that `bytes` bytes need: ceil(8 * bytes / 5).
[[nodiscard]] constexpr std::size_t nix32_length(std::size_t bytes) noexcept {
  return (bytes * 8 + 4) / 5;
}

/// True for the 32 characters of Nix's base 32.
[[nodiscard]] NIXBUILD_API bool is_nix32(char c) noexcept;

} // namespace nixbuild
