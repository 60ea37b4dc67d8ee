#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>

#include <chrono>
#include <cstdint>
#include <memory>

namespace nixbuild::aio {

/// A counter that coroutines of any executor wait on: the way one strand tells others that
/// something changed. Thread safe. Waiting ends with the awaiting coroutine's cancellation.
class NIXBUILD_API Event {
public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Counts one up and wakes everyone who waits.
  void notify();
  [[nodiscard]] std::uint64_t count() const;
  /// Completes once the count differs from `seen`; false when `patience` (zero: none) ran out
  /// first. Read the count, look at the state, then wait with the count read before looking.
  Task<bool> wait(std::uint64_t seen,
                  std::chrono::milliseconds patience = std::chrono::milliseconds{0});

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::aio
