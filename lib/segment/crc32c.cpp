#include "segment/crc32c.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace nixbuild::segment {

namespace {

constexpr auto kTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
    }
    table[i] = crc;
  }
  return table;
}();

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t crc32c_by_instruction(std::uint32_t crc,
                                                                      ByteView bytes) noexcept {
  std::uint64_t wide = crc;
  while (bytes.size() >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    wide = _mm_crc32_u64(wide, word);
    bytes = bytes.subspan(8);
  }
  auto narrow = static_cast<std::uint32_t>(wide);
  for (const auto byte : bytes) {
    narrow = _mm_crc32_u8(narrow, byte);
  }
  return narrow;
}
#endif

} // namespace

std::uint32_t crc32c_by_table(std::uint32_t crc, ByteView bytes) noexcept {
  for (const auto byte : bytes) {
    crc = (crc >> 8) ^ kTable[(crc ^ byte) & 0xffU];
  }
  return crc;
}

std::uint32_t crc32c(std::uint32_t crc, ByteView bytes) noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) {
    return crc32c_by_instruction(crc, bytes);
  }
#endif
  return crc32c_by_table(crc, bytes);
}

} // namespace nixbuild::segment
