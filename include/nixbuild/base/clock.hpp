#pragma once

#include <chrono>

namespace nixbuild {

using WallTime = std::chrono::sys_seconds;
using MonotonicTime = std::chrono::steady_clock::time_point;

/// Where time comes from. Parts that need the time are handed one; none reads a clock by itself.
/// Implementations are thread safe.
class Clock {
public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual WallTime wall() const = 0;
  [[nodiscard]] virtual MonotonicTime monotonic() const = 0;
};

} // namespace nixbuild
