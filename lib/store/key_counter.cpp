#include "key_counter.hpp"

#include <random>
#include <utility>

namespace nixbuild::store {

namespace {

std::uint64_t mix(std::uint64_t value) noexcept {
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdU;
  value ^= value >> 33;
  value *= 0xc4ceb9fe1a85ec53U;
  return value ^ value >> 33;
}

} // namespace

KeyCounter::KeyCounter() {
  std::random_device random;
  seed_ = std::uint64_t{random()} << 32 | random();
}

std::size_t KeyCounter::home_of(const PathKey& key) const noexcept {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  std::uint32_t third = 0;
  std::memcpy(&first, key.data(), 8);
  std::memcpy(&second, key.data() + 8, 8);
  std::memcpy(&third, key.data() + 16, 4);
  const auto mixed = mix(mix(mix(first ^ seed_) ^ second) ^ third);
  return static_cast<std::size_t>(mixed) & (slots_.size() - 1);
}

std::size_t KeyCounter::find(const PathKey& key) const noexcept {
  std::size_t at = home_of(key);
  while (slots_[at].count > 0 && slots_[at].key != key) {
    at = (at + 1) & (slots_.size() - 1);
  }
  return at;
}

void KeyCounter::grow() {
  const auto old =
      std::exchange(slots_, std::vector<Slot>(slots_.empty() ? 16 : slots_.size() * 2));
  for (const auto& slot : old) {
    if (slot.count > 0) {
      slots_[find(slot.key)] = slot;
    }
  }
}

std::uint32_t KeyCounter::add(const PathKey& key) {
  if ((used_ + 1) * 4 > slots_.size() * 3) {
    grow();
  }
  auto& slot = slots_[find(key)];
  if (slot.count == 0) {
    slot.key = key;
    ++used_;
  }
  return ++slot.count;
}

void KeyCounter::remove(const PathKey& key) {
  if (slots_.empty()) {
    return;
  }
  std::size_t hole = find(key);
  if (slots_[hole].count == 0 || --slots_[hole].count > 0) {
    return;
  }
  --used_;
  // Whatever stood further on because this slot was taken moves up.
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = (hole + 1) & mask; slots_[at].count > 0; at = (at + 1) & mask) {
    if (((at - home_of(slots_[at].key)) & mask) >= ((at - hole) & mask)) {
      slots_[hole] = slots_[at];
      slots_[at].count = 0;
      hole = at;
    }
  }
}

bool KeyCounter::contains(const PathKey& key) const {
  return !slots_.empty() && slots_[find(key)].count > 0;
}

} // namespace nixbuild::store
