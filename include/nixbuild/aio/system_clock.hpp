#pragma once

#include <nixbuild/base/clock.hpp>

namespace nixbuild::aio {

/// The machine's clocks, for programs to hand to the parts that need the time. Thread safe.
class SystemClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override {
    return std::chrono::time_point_cast<std::chrono::microseconds>(
        std::chrono::system_clock::now());
  }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }
};

} // namespace nixbuild::aio
