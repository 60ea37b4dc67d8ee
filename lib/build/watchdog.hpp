#pragma once

#include <nixbuild/aio/event.hpp>
#include <nixbuild/build/builder.hpp>

#include <chrono>
#include <memory>

namespace nixbuild::build {

/// Why a build was ended before its builder.
enum class Stop { None, Cancelled, Silence, Timeout, LogLimit, Lost };

/// What the watchdog looks at, shared by it and the attempt; both run on one strand.
struct Watch {
  sandbox::Execution* execution = nullptr;
  MonotonicTime started;
  MonotonicTime last_output;
  bool builder_running = false;
  bool timed = false; ///< its time has begun, and goes on until its outputs are registered
  Stop reason = Stop::None;
  bool ended = false;
  aio::Event end; ///< wakes who waits for `ended`

  void stop(Stop why) {
    if (reason == Stop::None && execution != nullptr) {
      reason = why;
      execution->cancel();
    }
  }
};

struct WatchLimits {
  std::chrono::seconds silence{0};
  std::chrono::seconds timeout{0};
  std::chrono::seconds lost{0};
};

/// Ends a build that was cancelled, says nothing, or takes too long: looks at `watch` ten times a
/// second until it has ended. Runs on the strand of the attempt. `clock` outlives the task.
aio::Task<void> watch_over(std::shared_ptr<Watch> watch,
                           std::shared_ptr<BuildControl> control,
                           WatchLimits limits,
                           const Clock& clock);

} // namespace nixbuild::build
