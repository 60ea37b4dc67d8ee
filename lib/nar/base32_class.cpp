#include "nar/base32_class.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nixbuild::nar {

#if defined(__x86_64__)

namespace {

// A byte is in the class when the bits that its low and its high half select have one in common:
// bit 0 for `0`-`9`, bit 1 for `a`-`n`, bit 2 for `p`-`z`, each without the letters left out.
// Bytes from 0x80 on select 0 by the rule of the shuffle instruction.
alignas(16) constexpr std::array<std::uint8_t, 16> kLowHalf = [] {
  std::array<std::uint8_t, 16> table{};
  for (unsigned high = 3; high < 8; ++high) {
    const unsigned bit = high == 3 ? 1U : high == 6 ? 2U : high == 7 ? 4U : 0U;
    for (unsigned low = 0; low < 16; ++low) {
      if (kIsBase32[high * 16 + low]) {
        table[low] = static_cast<std::uint8_t>(table[low] | bit);
      }
    }
  }
  return table;
}();
alignas(16) constexpr std::array<std::uint8_t, 16> kHighHalf{0, 0, 0, 1, 0, 0, 2, 4};

__attribute__((target("avx2"))) void
classify_avx2(const std::uint8_t* bytes, std::size_t blocks, std::uint64_t* masks) {
  const __m256i low_half = _mm256_broadcastsi128_si256(
      _mm_load_si128(reinterpret_cast<const __m128i*>(kLowHalf.data())));
  const __m256i high_half = _mm256_broadcastsi128_si256(
      _mm_load_si128(reinterpret_cast<const __m128i*>(kHighHalf.data())));
  const __m256i four_bits = _mm256_set1_epi8(0x0f);
  for (std::size_t i = 0; i < blocks; ++i) {
    std::uint64_t foreign = 0;
    for (unsigned half = 0; half < 2; ++half) {
      const __m256i text =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i * 64 + half * 32));
      const __m256i low = _mm256_shuffle_epi8(low_half, text);
      const __m256i high =
          _mm256_shuffle_epi8(high_half, _mm256_and_si256(_mm256_srli_epi16(text, 4), four_bits));
      const __m256i zero = _mm256_cmpeq_epi8(_mm256_and_si256(low, high), _mm256_setzero_si256());
      foreign |= std::uint64_t{static_cast<std::uint32_t>(_mm256_movemask_epi8(zero))}
                 << (half * 32);
    }
    masks[i] = ~foreign;
  }
}

__attribute__((target("avx512f,avx512bw"))) void
classify_avx512(const std::uint8_t* bytes, std::size_t blocks, std::uint64_t* masks) {
  // The masked form, because g++ 12 takes the plain one for a use of an uninitialised value.
  const __m512i low_half = _mm512_maskz_broadcast_i32x4(
      0xffff, _mm_load_si128(reinterpret_cast<const __m128i*>(kLowHalf.data())));
  const __m512i high_half = _mm512_maskz_broadcast_i32x4(
      0xffff, _mm_load_si128(reinterpret_cast<const __m128i*>(kHighHalf.data())));
  const __m512i four_bits = _mm512_set1_epi8(0x0f);
  for (std::size_t i = 0; i < blocks; ++i) {
    const __m512i text = _mm512_loadu_si512(bytes + i * 64);
    const __m512i low = _mm512_shuffle_epi8(low_half, text);
    const __m512i high =
        _mm512_shuffle_epi8(high_half, _mm512_and_si512(_mm512_srli_epi16(text, 4), four_bits));
    masks[i] = _mm512_test_epi8_mask(low, high);
  }
}

} // namespace

Classifiers available_classifiers() noexcept {
  Classifiers found;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
    found.functions[found.count++] = classify_avx512;
  }
  if (__builtin_cpu_supports("avx2")) {
    found.functions[found.count++] = classify_avx2;
  }
  return found;
}

#else

Classifiers available_classifiers() noexcept {
  return {};
}

#endif

} // namespace nixbuild::nar
