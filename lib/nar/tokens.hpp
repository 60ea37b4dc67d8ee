#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

/// The fixed byte sequences of a NAR. Runs of tokens that always follow each other are one literal,
/// so that a reader compares them at once and a writer copies them at once.
/// Source: protocol facts 4.1.
namespace nixbuild::nar {

/// The encoding of strings one after the other: length, bytes, zero padding to 8.
template <std::size_t... N>
consteval auto tokens(const char (&... text)[N]) {
  constexpr std::size_t kSize = (... + (8 + (N - 1 + 7) / 8 * 8));
  std::array<std::uint8_t, kSize> out{};
  std::size_t at = 0;
  const auto add = [&](const char* bytes, std::size_t size) {
    out[at] = static_cast<std::uint8_t>(size);
    for (std::size_t i = 0; i < size; ++i) {
      out[at + 8 + i] = static_cast<std::uint8_t>(bytes[i]);
    }
    at += 8 + (size + 7) / 8 * 8;
  };
  (add(text, N - 1), ...);
  return out;
}

inline constexpr auto kMagic = tokens("nix-archive-1", "(", "type");
inline constexpr auto kRegular = tokens("regular");
inline constexpr auto kSymlink = tokens("symlink");
inline constexpr auto kDirectory = tokens("directory");
inline constexpr auto kExecutable = tokens("executable", "", "contents");
inline constexpr auto kContents = tokens("contents");
inline constexpr auto kTarget = tokens("target");
inline constexpr auto kEntry = tokens("entry", "(", "name");
inline constexpr auto kNode = tokens("node", "(", "type");
inline constexpr auto kClose = tokens(")");
/// The end of a node and of the entry it is in.
inline constexpr auto kCloseBoth = tokens(")", ")");

/// 64 bits, little endian.
inline std::uint64_t load_u64(const std::uint8_t* bytes) noexcept {
  std::uint64_t value = 0;
  if constexpr (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) {
    std::memcpy(&value, bytes, 8);
  } else {
    for (unsigned i = 0; i < 8; ++i) {
      value |= std::uint64_t{bytes[i]} << (8 * i);
    }
  }
  return value;
}

inline std::array<std::uint8_t, 8> u64_bytes(std::uint64_t value) noexcept {
  std::array<std::uint8_t, 8> out;
  for (unsigned i = 0; i < 8; ++i) {
    out[i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
  return out;
}

} // namespace nixbuild::nar
