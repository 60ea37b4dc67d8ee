#include "guest_figures.hpp"

#include <algorithm>

namespace nixbuild::build {

using std::chrono::microseconds;

sandbox::GuestExit believable(sandbox::GuestExit exit, const MachineFacts& facts) {
  const auto within = [](microseconds told, microseconds most) {
    return std::clamp(told, microseconds{0}, std::max(most, microseconds{0}));
  };
  const auto most_cpu = facts.cpu.value_or(facts.age * std::max(facts.cpus, 1U));
  exit.cpu_user = within(exit.cpu_user, most_cpu);
  exit.cpu_system = within(exit.cpu_system, most_cpu - exit.cpu_user);
  exit.boot_time = within(exit.boot_time, facts.age);
  exit.mount_time = within(exit.mount_time, facts.age);
  exit.builder_time = within(exit.builder_time, facts.age);
  exit.peak_memory_bytes = std::min(exit.peak_memory_bytes, facts.memory_bytes);
  const auto most_files = std::max(facts.memory_bytes, facts.scratch_bytes);
  exit.disk_bytes = std::min(exit.disk_bytes, most_files);
  exit.scratch_bytes = std::min(exit.scratch_bytes, most_files);
  return exit;
}

} // namespace nixbuild::build
