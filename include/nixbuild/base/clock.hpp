#pragma once

#include <chrono>
#include <cstdint>

namespace nixbuild {

using WallTime = std::chrono::sys_time<std::chrono::microseconds>;
using MonotonicTime = std::chrono::steady_clock::time_point;

/// Where time comes from. Parts that need the time are handed one; none reads a clock by itself.
/// Implementations are thread safe.
class Clock {
public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual WallTime wall() const = 0;
  [[nodiscard]] virtual MonotonicTime monotonic() const = 0;
};

/// Whole seconds since 1970, as stores and protocols keep them.
[[nodiscard]] inline std::int64_t unix_seconds(WallTime time) {
  return std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count();
}

} // namespace nixbuild
