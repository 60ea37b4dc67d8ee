#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace nixbuild::protocol::wire {

inline constexpr std::size_t kWordBytes = 8;

/// Little endian; `bytes` has at least 8.
[[nodiscard]] inline std::uint64_t load_word(ByteView bytes) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = kWordBytes; i-- > 0;) {
    value = value << 8 | bytes[i];
  }
  return value;
}

inline void append_word(std::string& out, std::uint64_t value) {
  for (std::size_t i = 0; i < kWordBytes; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  }
}

[[nodiscard]] constexpr std::size_t padded(std::size_t size) noexcept {
  return (size + kWordBytes - 1) / kWordBytes * kWordBytes;
}

} // namespace nixbuild::protocol::wire
