#pragma once

#include "path_key.hpp"

#include <cstdint>
#include <cstring>
#include <vector>

namespace nixbuild::store {

/// How often each key was added: an open-addressed table of 24 bytes a slot, at most three quarters
/// full. Keys may come from a hostile client (hash parts can be chosen), so they are mixed with a
/// random seed.
class KeyCounter {
public:
  KeyCounter();

  /// Returns the count after the addition.
  std::uint32_t add(const PathKey& key);
  /// Takes one away; the key must be there.
  void remove(const PathKey& key);
  [[nodiscard]] bool contains(const PathKey& key) const;

  [[nodiscard]] std::size_t size() const noexcept { return used_; }

  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const auto& slot : slots_) {
      if (slot.count > 0) {
        visit(slot.key);
      }
    }
  }

private:
  struct Slot {
    PathKey key{};
    std::uint32_t count = 0; ///< 0: empty
  };

  [[nodiscard]] std::size_t home_of(const PathKey& key) const noexcept;
  [[nodiscard]] std::size_t find(const PathKey& key) const noexcept;
  void grow();

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
  std::uint64_t seed_;
};

} // namespace nixbuild::store
