#include "sandbox/runner/build_run.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

// What a build's loop does when its time has come: who is waited for, and how long.
namespace nixbuild::sandbox::runner {

namespace {

/// Between two looks at the room on the host's disk.
constexpr std::chrono::seconds kHostChecks{1};

} // namespace

/// The guest owes nothing now: what comes next is up to a daemon, for which a build that has ended
/// waits its time of grace.
void BuildRun::wait_for_daemon() {
  deadline_ = client_ ? Clock::time_point::max()
                      : Clock::now() + std::chrono::seconds(start_->grace_seconds);
}

void BuildRun::extend_patience() {
  if (guest_ && guest_->has_terminal()) {
    deadline_ = Clock::time_point::max(); // somebody thinks
    return;
  }
  deadline_ = Clock::now() + std::chrono::seconds(start_->patience_seconds);
}

void BuildRun::check_deadlines() {
  if (Clock::now() >= alone_until_) {
    constexpr std::string_view words = "no daemon came back: ending\n";
    [[maybe_unused]] const auto put = ::write(STDERR_FILENO, words.data(), words.size());
    status_ = 1;
    done_ = true;
    return;
  }
  if (Clock::now() < deadline_) {
    return;
  }
  deadline_ = Clock::time_point::max();
  if (relaying_ && !wants_output()) {
    extend_patience(); // the daemon is the slow one
    return;
  }
  if (finishing_) {
    conclude();
  } else if (failure_ || !start_ || (exited_ && !relaying_)) {
    done_ = true; // nobody came for it
  } else if (!machine_) {
    fail("sandbox.spawn", "the plan did not come in time");
  } else {
    fail("sandbox.lost",
         fmt::format("the guest did not answer within {} s (sandbox.guest-patience-seconds); its "
                     "last words: {}",
                     start_->patience_seconds,
                     Machine::last_words()));
  }
}

/// A full disk of the host stops the emulator before it can hurt a build's files; here it ends the
/// machine, so that others get on.
void BuildRun::check_host() {
  if (!scratch_ || !machine_ || failure_ || Clock::now() < host_checked_ + kHostChecks) {
    return;
  }
  host_checked_ = Clock::now();
  if (const auto why = scratch_->host_is_full()) {
    fail("sandbox.lost", *why);
  }
}

int BuildRun::wait_milliseconds() const {
  auto next = std::min(deadline_, alone_until_);
  if (scratch_ && machine_ && !failure_) {
    next = std::min(next, host_checked_ + kHostChecks);
  }
  if (next == Clock::time_point::max()) {
    return -1;
  }
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left + 1, 0, 3'600'000));
}

} // namespace nixbuild::sandbox::runner
