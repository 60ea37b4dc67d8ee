#include "nar/base32_class.hpp"
#include "nar/tokens.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reference_scan.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace nixbuild::nar {

namespace {

constexpr std::size_t kHashPart = 32;
constexpr std::size_t kMinFilterBits = 4096;
constexpr std::size_t kMaxFilterBits = std::size_t{1} << 23;
constexpr std::uint32_t kNone = ~std::uint32_t{0};

/// Mixes all 32 characters, so that candidates that share a prefix do not share a bucket.
std::uint64_t mixed(const std::uint8_t* text) noexcept {
  std::uint64_t hash = load_u64(text) * 0x9e3779b97f4a7c15U;
  hash = (std::rotl(hash, 29) ^ load_u64(text + 8)) * 0xbf58476d1ce4e5b9U;
  hash = (std::rotl(hash, 29) ^ load_u64(text + 16)) * 0x94d049bb133111ebU;
  hash = (std::rotl(hash, 29) ^ load_u64(text + 24)) * 0x9e3779b97f4a7c15U;
  return hash ^ (hash >> 32);
}

} // namespace

struct ReferenceScanner::State {
  explicit State(std::span<const std::string> hash_parts);

  void feed(ByteView bytes);

  std::vector<bool> seen; ///< per distinct candidate
  /// Distinct candidate of each of the constructor's hash parts.
  std::vector<std::uint32_t> distinct_of;

private:
  /// The distinct candidate with this text, or kNone; `slot` is left where it is or belongs.
  [[nodiscard]] std::uint32_t lookup(const std::uint8_t* text, std::size_t& slot) const noexcept;

  /// Bit of the filter for a text that begins so.
  [[nodiscard]] std::size_t filter_bit(const std::uint8_t* text) const noexcept {
    return static_cast<std::size_t>((load_u64(text) * 0x9e3779b97f4a7c15U) >> filter_shift_);
  }

  void check(const std::uint8_t* text) {
    const std::size_t bit = filter_bit(text);
    if (((filter_[bit / 64] >> (bit % 64)) & 1U) == 0) {
      return;
    }
    std::size_t slot = 0;
    if (const auto candidate = lookup(text, slot); candidate != kNone && !seen[candidate]) {
      seen[candidate] = true;
      --missing_;
    }
  }

  void scan(ByteView bytes);
  void scan_masks(const std::uint8_t* bytes, std::span<const std::uint64_t> masks);
  void scan_skipping(ByteView bytes);

  std::vector<std::array<std::uint8_t, kHashPart>> candidates_;
  std::vector<std::uint32_t> table_; ///< open addressing, at most half full
  /// Sparse set of candidates' beginnings: in text that is nothing but base-32 characters, almost
  /// every position ends here, in the fastest cache.
  std::vector<std::uint64_t> filter_;
  unsigned filter_shift_ = 0;
  std::size_t missing_ = 0;
  std::array<std::uint8_t, kHashPart - 1> tail_{};
  std::size_t tail_size_ = 0;
  ClassifyBase32 classify_ = fastest_classifier();
};

ReferenceScanner::State::State(std::span<const std::string> hash_parts)
    : table_(std::bit_ceil(2 * hash_parts.size() + 2), kNone) {
  const auto bits =
      std::clamp(std::bit_ceil(64 * hash_parts.size()), kMinFilterBits, kMaxFilterBits);
  filter_.resize(bits / 64);
  filter_shift_ = 64 - static_cast<unsigned>(std::countr_zero(bits));
  for (const auto& text : hash_parts) {
    if (text.size() != kHashPart || !std::all_of(text.begin(), text.end(), is_nix32)) {
      throw Error(Reaction::Reject,
                  "reference-scan.candidate",
                  fmt::format("'{}' is not a hash part of {} base-32 characters", text, kHashPart));
    }
    std::size_t slot = 0;
    auto candidate = lookup(bytes_of(text).data(), slot);
    if (candidate == kNone) {
      candidate = static_cast<std::uint32_t>(candidates_.size());
      std::copy_n(bytes_of(text).data(), kHashPart, candidates_.emplace_back().data());
      table_[slot] = candidate;
      const std::size_t bit = filter_bit(bytes_of(text).data());
      filter_[bit / 64] |= std::uint64_t{1} << (bit % 64);
    }
    distinct_of.push_back(candidate);
  }
  missing_ = candidates_.size();
  seen.resize(candidates_.size());
}

std::uint32_t ReferenceScanner::State::lookup(const std::uint8_t* text,
                                              std::size_t& slot) const noexcept {
  const std::size_t mask = table_.size() - 1;
  slot = mixed(text) & mask;
  while (table_[slot] != kNone) {
    if (std::memcmp(candidates_[table_[slot]].data(), text, kHashPart) == 0) {
      return table_[slot];
    }
    slot = (slot + 1) & mask;
  }
  return kNone;
}

/// Finds the runs of 32 in bit masks of base-32 characters, 64 bytes a mask. Of a run that begins
/// in the last mask only what ends there is found.
void ReferenceScanner::State::scan_masks(const std::uint8_t* bytes,
                                         std::span<const std::uint64_t> masks) {
  for (std::size_t i = 0; i < masks.size(); ++i) {
    std::uint64_t low = masks[i];
    std::uint64_t high = i + 1 < masks.size() ? masks[i + 1] : 0;
    for (unsigned shift = 1; shift < kHashPart; shift *= 2) {
      low &= (low >> shift) | (high << (64 - shift));
      high &= high >> shift;
    }
    for (; low != 0; low &= low - 1) {
      check(bytes + i * 64 + static_cast<unsigned>(std::countr_zero(low)));
    }
  }
}

/// Without vector instructions: looks at the last character of a window first; one that is foreign
/// rules out every window it is in.
void ReferenceScanner::State::scan_skipping(ByteView bytes) {
  std::size_t begin = 0;
  std::size_t known = 0; // characters at the window's begin that are known to be right
  while (begin + kHashPart <= bytes.size()) {
    std::size_t at = kHashPart;
    while (at > known && kIsBase32[bytes[begin + at - 1]]) {
      --at;
    }
    if (at > known) {
      begin += at;
      known = 0;
    } else {
      check(bytes.data() + begin);
      begin += 1;
      known = kHashPart - 1;
    }
  }
}

void ReferenceScanner::State::scan(ByteView bytes) {
  if (bytes.size() < kHashPart) {
    return;
  }
  if (classify_ == nullptr) {
    scan_skipping(bytes);
    return;
  }
  // The last mask of a batch is also the first of the next one, because runs cross the border.
  constexpr std::size_t kBatch = 64;
  std::array<std::uint64_t, kBatch + 1> masks;
  const std::size_t whole = bytes.size() / 64;
  std::size_t first = 0;
  while (first + 1 < whole) {
    const std::size_t count = std::min(kBatch, whole - first);
    classify_(bytes.data() + first * 64, count, masks.data());
    scan_masks(bytes.data() + first * 64, std::span(masks).first(count));
    first += count - 1;
  }
  // What is left: at most one whole mask and a partial one.
  std::array<std::uint8_t, 128> end{};
  const std::size_t begin = first * 64;
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(begin), bytes.end(), end.begin());
  classify_(end.data(), 2, masks.data());
  scan_masks(bytes.data() + begin, std::span(masks).first(2));
}

void ReferenceScanner::State::feed(ByteView bytes) {
  if (missing_ == 0 || bytes.empty()) {
    return;
  }
  // Hash parts that begin in what is left of earlier chunks.
  std::array<std::uint8_t, 2 * (kHashPart - 1)> border;
  const std::size_t fresh = std::min(bytes.size(), kHashPart - 1);
  std::copy_n(tail_.begin(), tail_size_, border.begin());
  std::copy_n(bytes.begin(), fresh, border.begin() + static_cast<std::ptrdiff_t>(tail_size_));
  const std::size_t border_size = tail_size_ + fresh;
  scan(ByteView(border).first(border_size));

  if (bytes.size() >= kHashPart - 1) {
    scan(bytes);
    tail_size_ = kHashPart - 1;
    std::copy_n(bytes.end() - (kHashPart - 1), kHashPart - 1, tail_.begin());
  } else {
    tail_size_ = std::min(border_size, kHashPart - 1);
    std::copy_n(border.begin() + static_cast<std::ptrdiff_t>(border_size - tail_size_),
                tail_size_,
                tail_.begin());
  }
}

ReferenceScanner::ReferenceScanner(std::span<const std::string> hash_parts)
    : state_(std::make_unique<State>(hash_parts)) {}

ReferenceScanner::~ReferenceScanner() = default;
ReferenceScanner::ReferenceScanner(ReferenceScanner&&) noexcept = default;
ReferenceScanner& ReferenceScanner::operator=(ReferenceScanner&&) noexcept = default;

void ReferenceScanner::feed(ByteView bytes) {
  state_->feed(bytes);
}

std::vector<std::size_t> ReferenceScanner::found() const {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < state_->distinct_of.size(); ++i) {
    if (state_->seen[state_->distinct_of[i]]) {
      indices.push_back(i);
    }
  }
  return indices;
}

} // namespace nixbuild::nar
