#include "builder_settings.hpp"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>

namespace nixbuild::server {

namespace {

/// By which the runner is first to say that a machine does not answer.
constexpr std::chrono::seconds kRunnersWord{30};

/// A file that this host may not have, up to a size that no such file reaches.
std::string contents_of(const std::string& path) {
  constexpr std::size_t limit = 8 * kMiB;
  std::ifstream file(path, std::ios::binary);
  std::string contents(limit, '\0');
  file.read(contents.data(), static_cast<std::streamsize>(limit));
  contents.resize(static_cast<std::size_t>(file.gcount()));
  return contents;
}

build::BuildNetwork network_of(const Config& config) {
  build::BuildNetwork network;
  network.certificates = contents_of(config.certificates);
  network.services = contents_of("/etc/services");
  network.netrc = contents_of(config.netrc);
  network.impure_environment = config.impure_env;
  return network;
}

} // namespace

build::BuilderSettings builder_settings(const Config& config, const MachineShare& share) {
  build::BuilderSettings settings;
  settings.cpus = share.build_cpus;
  settings.max_cpus = share.cpus;
  settings.memory_bytes = share.build_memory_bytes;
  settings.min_memory_bytes = std::min(kGiB, share.build_memory_bytes);
  settings.max_log_bytes = config.max_log_bytes;
  settings.max_output_bytes = config.max_output_bytes;
  settings.build_cores = share.build_cpus;
  settings.allow_emulation = config.allow_emulation;
  settings.max_memory_bytes = share.memory_bytes;
  // The runner knows better which step it waits for: its word comes first.
  settings.lost_after = std::max(settings.lost_after, config.guest_patience + kRunnersWord);
  if (config.network) {
    settings.network = network_of(config);
  }
  if (config.max_build_memory_bytes != 0) {
    settings.max_memory_bytes = std::min(settings.max_memory_bytes, config.max_build_memory_bytes);
  }
  return settings;
}

} // namespace nixbuild::server
