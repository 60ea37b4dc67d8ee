#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

namespace nixbuild::tests {

/// How a traced process ended.
struct Traced {
  std::size_t stops = 0; ///< counted before the end: entries into system calls, and exits
  bool killed = false;   ///< by the tracer
  int status = 0;        ///< as waitpid gives it

  /// It ended by itself, and not well.
  [[nodiscard]] bool failed() const { return !killed && status != 0; }
};

/// A system call that a thread is about to make.
struct TracedCall {
  std::uint64_t number = 0;
  std::uint64_t arguments[6] = {};
};

/// Which calls count; all of them when empty. Asked for each entry, in the order of the entries.
using CallFilter = std::function<bool(const TracedCall&)>;

/// Runs `work` in a child process and kills it with SIGKILL at the `limit`-th stop of a call that
/// counts, whichever thread makes it. The child's own children run on, untraced; it ends with 0
/// when `work` returns. Signals reach it. Nothing where processes may not be traced.
[[nodiscard]] std::optional<Traced>
run_killed_at(std::size_t limit, const std::function<void()>& work, const CallFilter& counts = {});

} // namespace nixbuild::tests
