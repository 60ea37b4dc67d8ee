#pragma once

#include <nixbuild/scheduler/request.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

/// Why a build does not run yet, or where it runs: for `nixbuild why` and log lines.
namespace nixbuild::scheduler {

enum class BuildPhase {
  Dependencies, ///< others must finish first
  Delayed,      ///< restarts a while after its machine was lost
  Queued,       ///< ready
  Running,
  Stopping, ///< cancelled; its machine has not reported the end yet
};

/// What a ready build waits for, the first that holds of these.
enum class WaitingFor {
  Nothing,  ///< runs, or starts with the next decision
  Build,    ///< a dependency (`dependencies`)
  Restart,  ///< the end of its delay (`expected_start`)
  Draining, ///< the service starts nothing any more
  Quota,    ///< of its account (`quota`)
  Node,     ///< no node offers its platform, features or size
  Gate,     ///< every node that could take it takes nothing new (`detail` says why)
  Cpus,     ///< enough memory is free somewhere, but no cpus with it
  Memory,   ///< enough cpus are free somewhere, but no memory with them
  Capacity, ///< neither is free anywhere
  Turn,     ///< capacity is there; others are before it, or it is kept for a bigger build
};

struct QuotaState {
  std::string name; ///< `running`, `cpus`, `memory`, `cpu-time`
  std::uint64_t used = 0;
  std::uint64_t limit = 0;
  std::uint64_t wanted = 0; ///< by this build; builds, cpus, bytes, or seconds of cpu time
};

struct Explanation {
  BuildId id = 0;
  std::string account;
  std::set<std::string> tags;
  BuildPhase phase = BuildPhase::Queued;
  WaitingFor waiting_for = WaitingFor::Nothing;
  std::string detail; ///< one sentence for people, without a full stop

  std::size_t open_dependencies = 0;
  std::vector<BuildId> dependencies; ///< the first 16 of the open ones
  std::optional<QuotaState> quota;
  std::size_t ahead_in_account = 0; ///< ready builds that its account would start before it
  std::size_t accounts_ahead = 0;   ///< accounts whose turn comes before
  std::string reserved_node;        ///< kept free for it, if any
  /// An estimate from expected durations and the account's share; absent where nothing is known.
  std::optional<MonotonicTime> expected_start;

  AttemptNumber attempt = 0; ///< the current one, or the last
  unsigned restarts = 0;
  std::string node; ///< where it runs
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  std::string why_size;
  std::optional<MonotonicTime> started;
  std::optional<MonotonicTime> expected_end;
  Milliseconds critical_path{0}; ///< its own duration and the longest chain of known dependants
};

/// In lower case with dashes, for JSON.
[[nodiscard]] NIXBUILD_API std::string_view name_of(BuildPhase phase) noexcept;
[[nodiscard]] NIXBUILD_API std::string_view name_of(WaitingFor waiting) noexcept;

} // namespace nixbuild::scheduler
