#include "support/traced_process.hpp"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <iostream>
#include <map>

namespace nixbuild::tests {

namespace {

constexpr int kCallStop = SIGTRAP | 0x80;

[[noreturn]] void run_child(const std::function<void()>& work) {
  ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  ::raise(SIGSTOP);
  try {
    work();
  } catch (const std::exception& error) {
    std::cerr << "child: " << error.what() << "\n";
    ::_exit(3);
  }
  ::_exit(0);
}

class Tracer {
public:
  Tracer(std::size_t limit, const CallFilter& counts) : limit_(limit), counts_(counts) {}

  /// Follows the child's threads until all have ended.
  Traced follow(pid_t child) {
    for (;;) {
      int status = 0;
      const pid_t thread = ::waitpid(-1, &status, __WALL);
      if (thread < 0) {
        return traced_;
      }
      if (WIFEXITED(status) || WIFSIGNALED(status)) {
        traced_.status = thread == child ? status : traced_.status;
        inside_.erase(thread);
        continue;
      }
      const bool call = WSTOPSIG(status) == kCallStop;
      if (call && counts(thread) && ++traced_.stops >= limit_ && !traced_.killed) {
        traced_.killed = true;
        ::kill(child, SIGKILL);
        continue;
      }
      const bool ours = call || WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP;
      ::ptrace(PTRACE_SYSCALL, thread, nullptr, ours ? 0 : WSTOPSIG(status));
    }
  }

private:
  /// Whether this stop counts: an exit does as its entry did.
  bool counts(pid_t thread) {
    if (!counts_) {
      return true;
    }
    __ptrace_syscall_info info{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0) {
      return false;
    }
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
      TracedCall call;
      call.number = info.entry.nr;
      std::copy(std::begin(info.entry.args), std::end(info.entry.args), std::begin(call.arguments));
      inside_[thread] = counts_(call);
    }
    return inside_[thread];
  }

  std::size_t limit_;
  const CallFilter& counts_;
  std::map<pid_t, bool> inside_;
  Traced traced_;
};

} // namespace

std::optional<Traced>
run_killed_at(std::size_t limit, const std::function<void()>& work, const CallFilter& counts) {
  const pid_t child = ::fork();
  if (child == 0) {
    run_child(work);
  }
  int status = 0;
  if (::waitpid(child, &status, __WALL) != child || !WIFSTOPPED(status) ||
      ::ptrace(PTRACE_SETOPTIONS,
               child,
               nullptr,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL) != 0) {
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, __WALL);
    return std::nullopt;
  }
  ::ptrace(PTRACE_SYSCALL, child, nullptr, 0);
  return Tracer(limit, counts).follow(child);
}

} // namespace nixbuild::tests
