#include <nixbuild/scheduler/scheduler.hpp>

namespace nixbuild::scheduler {

std::string_view name_of(Outcome outcome) noexcept {
  switch (outcome) {
  case Outcome::Succeeded:
    return "succeeded";
  case Outcome::BuilderFailed:
    return "builder-failed";
  case Outcome::OutOfMemory:
    return "out-of-memory";
  case Outcome::TimedOut:
    return "timed-out";
  case Outcome::Lost:
    return "lost";
  case Outcome::Cancelled:
    return "cancelled";
  }
  return "";
}

std::string_view name_of(Verdict verdict) noexcept {
  switch (verdict) {
  case Verdict::Succeeded:
    return "succeeded";
  case Verdict::BuilderFailed:
    return "builder-failed";
  case Verdict::TimedOut:
    return "timed-out";
  case Verdict::Cancelled:
    return "cancelled";
  case Verdict::OutOfMemory:
    return "out-of-memory";
  case Verdict::RestartsExceeded:
    return "restarts-exceeded";
  case Verdict::DependencyFailed:
    return "dependency-failed";
  case Verdict::Refused:
    return "refused";
  }
  return "";
}

std::string_view name_of(BuildPhase phase) noexcept {
  switch (phase) {
  case BuildPhase::Dependencies:
    return "dependencies";
  case BuildPhase::Delayed:
    return "delayed";
  case BuildPhase::Queued:
    return "queued";
  case BuildPhase::Running:
    return "running";
  case BuildPhase::Stopping:
    return "stopping";
  }
  return "";
}

std::string_view name_of(WaitingFor waiting) noexcept {
  switch (waiting) {
  case WaitingFor::Nothing:
    return "nothing";
  case WaitingFor::Build:
    return "build";
  case WaitingFor::Restart:
    return "restart";
  case WaitingFor::Draining:
    return "draining";
  case WaitingFor::Quota:
    return "quota";
  case WaitingFor::Node:
    return "node";
  case WaitingFor::Gate:
    return "gate";
  case WaitingFor::Cpus:
    return "cpus";
  case WaitingFor::Memory:
    return "memory";
  case WaitingFor::Capacity:
    return "capacity";
  case WaitingFor::Turn:
    return "turn";
  }
  return "";
}

std::string_view pool_of(std::string_view platform) noexcept {
  if (platform == "i686-linux") {
    return "x86_64-linux";
  }
  if (platform == "armv7l-linux" || platform == "armv6l-linux") {
    return "aarch64-linux";
  }
  return platform;
}

} // namespace nixbuild::scheduler
