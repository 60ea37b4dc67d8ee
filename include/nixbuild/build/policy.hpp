#pragma once

#include <chrono>
#include <cstdint>

namespace nixbuild::build {

/// What becomes of a build whose last asker leaves; in the order of their strength.
enum class KeepRunning : std::uint8_t {
  Abort, ///< it ends at once
  Grace, ///< it ends unless somebody asks for it again within a time
  Keep,  ///< it runs to its end
};

/// What an asker chooses about a build. Where several share one, the strongest `keep` counts.
struct BuildPolicy {
  KeepRunning keep = KeepRunning::Abort;
  std::chrono::seconds grace{0}; ///< for KeepRunning::Grace; the longest of all askers counts
  /// A failure of the builder that this account has seen before is told again, nothing is built.
  bool reuse_failures = false;
  /// The same for a build that took too long, where this asker allows it no longer than that.
  bool reuse_timeouts = false;
  /// Results may be used by other accounts with equal derivation and inputs, and theirs are used.
  bool share_results = false;
  unsigned max_restarts = 2; ///< how often a machine that was lost is replaced
  /// The machine of a builder that has failed waits for somebody who looks around in it.
  bool keep_failed = false;
  /// The machine has a Nix database of the build's inputs.
  bool input_database = false;
  /// A build that has succeeded is built once more when there is room, and compared.
  bool build_twice = false;
  /// How far memory may grow after a machine has run out of it; 0: as far as the builder goes.
  std::uint64_t max_memory_bytes = 0;
  /// The scratch disk for what the builder writes; 0: none, files lie in half of the memory.
  std::uint64_t disk_bytes = std::uint64_t{64} << 30;

  bool operator==(const BuildPolicy&) const = default;
};

} // namespace nixbuild::build
