#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

/// What the scheduler is told: builds, accounts, machines, and how attempts ended. Plain values.
namespace nixbuild::scheduler {

/// Chosen by the caller; never used again for another build.
using BuildId = std::uint64_t;

/// Counts the runs of one build, from 1. Every event about a run carries it; one with an old number
/// changes nothing.
using AttemptNumber = std::uint32_t;

using Milliseconds = std::chrono::milliseconds;

/// Cpu time: cpus held times the time they were held, as it is billed.
using CpuTime = std::chrono::milliseconds;

/// The platform of builds that every machine can do. Source: protocol facts 2.9.
inline constexpr std::string_view kEveryPlatform = "builtin";

enum class Lane {
  Interactive, ///< somebody waits for it: before batch inside its account
  Batch,       ///< still at least every fifth start of its account, while some wait
};

/// Bounds on the size of a build, from the settings that apply to it. Memory in bytes. Source: the
/// settings `min-cpu`, `max-cpu`, `default-cpu`, `min-mem`, `max-mem`, `default-mem-per-cpu`.
struct SizeBounds {
  unsigned min_cpus = 1;
  unsigned max_cpus = 16;
  unsigned default_cpus = 2; ///< without history
  std::uint64_t min_memory = std::uint64_t{512} << 20;
  std::uint64_t max_memory = std::uint64_t{64} << 30;
  std::uint64_t default_memory_per_cpu = std::uint64_t{3584} << 20; ///< without history
};

/// A run that began under an earlier life of the scheduler and still goes on.
struct RunningAttempt {
  std::string
      node; ///< may become known later; until `set_node` it is held on a node of no capacity
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  MonotonicTime started;
};

struct BuildRequest {
  BuildId id = 0;
  std::string account;        ///< who pays for it; empty is an account like any other
  std::string key;            ///< of the account; shares inside an account are by key; may be empty
  std::set<std::string> tags; ///< free labels; given back by `explain`
  std::string name;           ///< of the derivation, without hash and `.drv`: `hello-2.12.1`
  std::string platform;       ///< `x86_64-linux`, or kEveryPlatform
  /// System features, all needed. `mem:N` (GiB) and `cpu:N` are sizes and not looked for on nodes;
  /// `big-parallel` is looked for, and asks for the most cpus allowed.
  std::set<std::string> features;
  /// Builds that must succeed first. Ids that the scheduler does not know (any more) count as done.
  /// Builds of the same `submit` may be named before they stand in the list.
  std::vector<BuildId> dependencies;
  /// The longest chain of builds that need this one and are not submitted yet, as whoever holds the
  /// whole graph knows it; each is taken to last as long as one that nothing is known of.
  std::size_t builds_behind = 0;
  int priority = 0; ///< higher goes first among builds of one key with equally long critical paths
  Lane lane = Lane::Batch;
  SizeBounds bounds;
  /// Where the caller knows it; otherwise history decides, otherwise a minute is assumed.
  std::optional<Milliseconds> expected_duration;
  unsigned max_restarts = 3; ///< after lost machines; restarts for memory do not count

  /// Since when it waits; what is not given is the time of `submit`.
  std::optional<MonotonicTime> submitted;

  /// What the caller's database says after a restart of the scheduler: the last attempt that was
  /// started (0: none), how many were lost to infrastructure, and the least memory the next one
  /// needs (`Restarted::memory_bytes`; 0: no floor).
  AttemptNumber last_attempt = 0;
  unsigned restarts = 0;
  std::uint64_t memory_floor = 0;
  /// Adopts the run `last_attempt`: the build counts as running from the first moment, and its
  /// capacity and quota as used, even where they would not be granted today.
  std::optional<RunningAttempt> running;
};

/// Limits of one account over all its builds; nothing is started beyond them.
struct Quota {
  std::optional<unsigned> running;
  std::optional<unsigned> cpus;
  std::optional<std::uint64_t> memory_bytes;
  /// Cpu time in the current period (`max-cpu-hours-per-month`). What runs counts with its
  /// expected duration. No build starts once it is used up; those that run are not stopped, so
  /// it can be overdrawn by what they took longer than expected.
  std::optional<CpuTime> cpu_time;
};

struct AccountPolicy {
  std::string account;
  double weight = 1.0; ///< share relative to other accounts; from 0.001 to 1000, clamped
  Quota quota;
};

/// A machine that runs builds.
struct NodeSpec {
  std::string name;
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0; ///< what builds may use of it, all together
  std::set<std::string> platforms;
  std::set<std::string> features;
};

/// Pressure stall averages over ten seconds, in percent (0 to 100), and free space for builds.
struct NodeHealth {
  double cpu_some = 0;
  double memory_some = 0;
  double memory_full = 0;
  double io_full = 0;
  std::uint64_t free_disk_bytes = std::numeric_limits<std::uint64_t>::max();
};

/// From where on a node takes nothing new. A gate that has closed opens again when the figure
/// has fallen below four fifths of the limit (free disk: risen above five quarters), so that it
/// does not flutter.
struct GateLimits {
  double cpu_some = 95;
  double memory_some = 25;
  double memory_full = 5;
  double io_full = 40;
  std::uint64_t free_disk_bytes = std::uint64_t{2} << 30;
};

enum class Outcome {
  Succeeded,
  BuilderFailed, ///< the builder said no; never restarted
  OutOfMemory,   ///< restarted with at least twice the memory, up to the bounds
  TimedOut,      ///< never restarted
  Lost,          ///< machine, agent or infrastructure; restarted up to `max_restarts` times
  Cancelled,     ///< the caller stopped it
};

/// What was measured of a run; absent figures are unknown.
struct Measurements {
  std::optional<std::uint64_t> peak_memory_bytes;
  std::optional<CpuTime> cpu_time; ///< used, not held
};

/// `outcome` in lower case with dashes (`out-of-memory`), for logs and JSON.
[[nodiscard]] NIXBUILD_API std::string_view name_of(Outcome outcome) noexcept;

} // namespace nixbuild::scheduler
