#include <nixbuild/server/daemon.hpp>

#include <algorithm>

namespace nixbuild::server {

MachineShare
share_of(const Config& config, unsigned machine_cpus, std::uint64_t machine_memory_bytes) {
  MachineShare share;
  share.cpus = config.cpus != 0 ? config.cpus : std::max(1U, machine_cpus);
  share.memory_bytes =
      config.memory_bytes != 0 ? config.memory_bytes : machine_memory_bytes / 4 * 3;
  share.build_cpus =
      config.build_cpus != 0 ? config.build_cpus : std::clamp(share.cpus / 2, 1U, 4U);
  share.build_cpus = std::min(share.build_cpus, share.cpus);
  const std::uint64_t builds_at_once = std::max(1U, share.cpus / share.build_cpus);
  // The scheduler rounds sizes up to these steps, so that they are few: a fair part that lies
  // between two of them would not fit as often as it was meant to.
  constexpr std::uint64_t step = 256 * kMiB;
  const std::uint64_t part = share.memory_bytes / builds_at_once / step * step;
  share.build_memory_bytes = config.build_memory_bytes != 0
                                 ? config.build_memory_bytes
                                 : std::clamp<std::uint64_t>(part, kGiB, 4 * kGiB);
  share.build_memory_bytes = std::min(share.build_memory_bytes, share.memory_bytes) / kMiB * kMiB;
  return share;
}

} // namespace nixbuild::server
