#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nixbuild::nar {

/// Which bytes are characters of Nix's base 32.
inline constexpr auto kIsBase32 = [] {
  std::array<bool, 256> table{};
  for (const char c : std::string_view("0123456789abcdfghijklmnpqrsvwxyz")) {
    table[static_cast<unsigned char>(c)] = true;
  }
  return table;
}();

/// Writes for each of `blocks` blocks of 64 bytes a mask: bit i is set when byte i is a base-32
/// character.
using ClassifyBase32 = void (*)(const std::uint8_t* bytes,
                                std::size_t blocks,
                                std::uint64_t* masks);

/// The classifiers this processor can run, fastest first; may be empty.
struct Classifiers {
  std::array<ClassifyBase32, 2> functions{};
  std::size_t count = 0;
};

[[nodiscard]] Classifiers available_classifiers() noexcept;

/// The first of them, or null: then a byte-wise search is faster than making masks.
[[nodiscard]] inline ClassifyBase32 fastest_classifier() noexcept {
  return available_classifiers().functions[0];
}

} // namespace nixbuild::nar
