#pragma once

#include <nixbuild/scheduler/explain.hpp>
#include <nixbuild/scheduler/history.hpp>
#include <nixbuild/scheduler/request.hpp>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

/// Which build runs next, where and how big: the queue of a builder with many accounts.
///
/// A state machine fed with events and a time. It has no clock, thread or lock and does no I/O:
/// whoever drives it holds one mutex, calls one event, takes the decisions and acts on them. The
/// same code runs in production and in simulation.
///
/// ## Order
///
/// 1. Between accounts by weighted fair queueing of *charges*. A start is charged `slots *
/// seconds`:
///    slots are the cpus it holds, or its memory over `memory_per_slot` where that is more; seconds
///    are its expected duration within [`min_charge`, `max_charge`], and the difference to the real
///    one (within the same limits) when it has ended. Charges divided by the account's weight add
///    up to its *pass*; of the accounts with a build that fits, the one with the least pass starts
///    one. An account that comes back is never behind the virtual time V (the pass of the last one
///    served) by more than `credit`, nor before it by more than `debt_limit`, both over its weight.
///    Each platform family (`pool_of`) has passes and a V of its own.
/// 2. Inside the account interactive before batch, but after `interactive_turns` interactive starts
///    with batch waiting, a batch one.
/// 3. Inside the lane between keys, as between accounts.
/// 4. Inside the key the longest critical path (its own expected duration and the longest chain of
///    its known dependants), then priority, then age; but every `oldest_turn`th start is the
///    oldest.
///
/// ## How long one account can make another wait
///
/// Let account i, of weight w, have a ready build that its quota allows, and d be what it owes: its
/// pass less V, times w, at the moment that it starts to wait. Count the starts, on nodes that
/// could take the build, that happen while a node has room for it. Then until i is served:
///
/// - **work**: any other account j, of weight w_j, starts builds with charges (less what it is
/// given
///   back meanwhile) of at most `d * w_j / w + credit`, and then one more build;
/// - **newcomer**: one who owes nothing waits for at most one start of each other account that has
///   not been held back itself (such a one has up to `credit` more);
/// - **equal charges** c: one who has just been served gets the next after at most
///   `(W - w) / w + (n - 1)` starts, with n accounts waiting of total weight W, if none of them had
///   been held back.
///
/// A build for which a node was reserved (below) starts out of turn, so it comes on top: at most
/// one of each account at a time.
///
/// Argument: j is served while its pass is the least, so at most as long as it is not above i's; it
/// starts not below `V - credit / w_j`, and each start moves it by its charge over w_j. V only
/// grows, and i's own pass does not grow while it waits.
///
/// A build that does not fit anywhere now cannot be starved by smaller ones: once the account whose
/// turn it is has been overtaken `overtakes` times on nodes that could have taken its first build,
/// a node is **reserved** for that build (one reservation an account, on up to half of the nodes,
/// at least one). Others start there only in what is left of the whole node besides the reserved
/// size, so the build starts at the latest when the runs that were on that node at that moment have
/// ended. Where a quota holds the first build back, the account's other builds are held as well
/// after as many overtakings.
///
/// ## Never lost, never twice
///
/// Each submitted build gets exactly one `Ended`, and at any time at most one attempt that has been
/// started and not ended. Attempts are numbered; `finish` of another number is refused.
///
/// ## Cost
///
/// An event costs O(log builds + sizes in the queue + nodes) and takes tens of microseconds at
/// 50,000 waiting builds, 200 accounts and 500 nodes (tests/bench/scheduler_bench.cpp), plus the
/// part of the dependency graph it changes. `explain` walks the waiting builds of the account.
namespace nixbuild::scheduler {

struct SchedulerSettings {
  Milliseconds min_charge{std::chrono::seconds(10)};
  Milliseconds max_charge{std::chrono::hours(1)};
  Milliseconds assumed_duration{std::chrono::minutes(1)}; ///< of a build that nothing is known of
  std::uint64_t memory_per_slot = std::uint64_t{4} << 30;
  double credit = 600;        ///< slot seconds; see Order
  double debt_limit = 28'800; ///< slot seconds; see Order
  unsigned interactive_turns = 4;
  unsigned oldest_turn = 8;
  unsigned overtakes = 16;
  Milliseconds restart_delay{
      std::chrono::seconds(5)}; ///< after a loss; doubles with each, to 5 min
  GateLimits gates;
  /// A build that no known node could ever take is refused (false: one machine) or waits for one to
  /// appear (true: an elastic farm).
  bool wait_for_nodes = false;
  std::size_t max_builds = 1'000'000; ///< known at one time
  std::size_t history_limit = 20'000; ///< records kept in memory
};

/// Start this build now. The capacity is held from here on until `finish` of this attempt or
/// `lose_node`. The caller stores the attempt number before it acts.
struct Started {
  BuildId id = 0;
  AttemptNumber attempt = 0;
  std::string node;
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  std::string why_size;
};

/// Stop this attempt (its build was cancelled) and report its end by `finish`.
struct Stop {
  BuildId id = 0;
  AttemptNumber attempt = 0;
  std::string node;
};

/// An attempt came to nothing and the build waits for another one. Store the figures: `submit`
/// after a restart of the scheduler wants them back.
struct Restarted {
  BuildId id = 0;
  AttemptNumber attempt = 0;      ///< the one that ended
  Outcome reason = Outcome::Lost; ///< Lost or OutOfMemory
  unsigned restarts = 0;
  std::uint64_t memory_bytes = 0; ///< least memory of the next attempt
  std::string message;
};

enum class Verdict {
  Succeeded,
  BuilderFailed,
  TimedOut,
  Cancelled,
  OutOfMemory,      ///< with the most memory it may have
  RestartsExceeded, ///< its machines were lost too often
  DependencyFailed, ///< a dependency ended without success
  Refused,          ///< it can never run here
};

/// The build is over and forgotten. Comes exactly once for each submitted build.
struct Ended {
  BuildId id = 0;
  AttemptNumber attempt = 0; ///< the last that was started; 0: none
  Verdict verdict = Verdict::Succeeded;
  /// Empty for what the builder decided, else `scheduler.platform`, `scheduler.features`,
  /// `scheduler.feature-syntax`, `scheduler.bounds`, `scheduler.too-big`, `scheduler.quota`,
  /// `scheduler.out-of-memory`, `scheduler.restarts`, `scheduler.dependency`.
  std::string code;
  std::string message; ///< names what is missing and the limit
};

/// A run has taught something; the record is already in the history. Store it.
struct Learned {
  BuildId id = 0;
  BuildRecord record;
};

/// In the order in which they were made.
using Decision = std::variant<Started, Stop, Restarted, Ended, Learned>;

struct SchedulerCounts {
  std::size_t builds = 0;  ///< all that are known
  std::size_t blocked = 0; ///< wait for dependencies
  std::size_t delayed = 0;
  std::size_t queued = 0;
  std::size_t running = 0; ///< with those that are being stopped
  std::size_t reservations = 0;
};

struct AccountUsage {
  unsigned running = 0;
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  CpuTime cpu_time{0};  ///< in the period, of ended runs
  CpuTime committed{0}; ///< expected of those that run
  std::size_t queued = 0;
};

struct NodeState {
  NodeSpec spec;
  unsigned cpus_used = 0;
  std::uint64_t memory_used = 0;
  std::size_t running = 0;
  bool draining = false;
  std::string closed_because; ///< empty: the gate is open
  std::optional<BuildId> reserved_for;
};

/// Not thread safe. Times never go back: an earlier `now` counts as the latest one seen.
class NIXBUILD_API Scheduler {
public:
  explicit Scheduler(SchedulerSettings settings = {});
  ~Scheduler();
  Scheduler(Scheduler&&) noexcept;
  Scheduler& operator=(Scheduler&&) noexcept;

  /// Takes builds, a whole graph at once if known. What can never run ends as Refused at once (and
  /// its dependants with it); that is a decision, not an error. Nodes are therefore named first,
  /// unless `wait_for_nodes`. Errors, and then nothing of the
  /// list is taken: `scheduler.duplicate-build` (Reject), `scheduler.cycle` (Reject; names a build
  /// of it), `scheduler.full` (Busy).
  void submit(std::vector<BuildRequest> builds, MonotonicTime now);

  /// A waiting build ends; a running one gets a Stop and ends when its attempt has. Dependants end
  /// too. Unknown ids are ignored.
  void cancel(BuildId id, MonotonicTime now);

  /// Changes lane and priority of a waiting build (somebody began to wait for it). Ignored for
  /// others.
  void reprioritise(BuildId id, Lane lane, int priority, MonotonicTime now);

  /// The attempt has ended and its capacity is free. False, and nothing changes, if it is not the
  /// current one.
  bool finish(BuildId id,
              AttemptNumber attempt,
              Outcome outcome,
              const Measurements& measured,
              MonotonicTime now);

  /// Weight and quotas of an account; without this it has weight 1 and no quota.
  void set_account(const AccountPolicy& policy, MonotonicTime now);
  void set_key_weight(const std::string& account,
                      const std::string& key,
                      double weight,
                      MonotonicTime now);
  /// A new period began, or the scheduler did: what the account has used of its cpu time in it.
  void set_cpu_time_used(const std::string& account, CpuTime used, MonotonicTime now);

  /// A node appears, or changes its size or what it offers, or ends draining. What runs there
  /// stays.
  void set_node(const NodeSpec& spec, MonotonicTime now);
  /// Nothing new starts there. What runs goes on.
  void drain_node(const std::string& name, MonotonicTime now);
  /// It is gone: forgotten, and what ran there is Lost. For a node that was drained empty, too.
  void lose_node(const std::string& name, MonotonicTime now);
  void set_health(const std::string& name, const NodeHealth& health, MonotonicTime now);
  /// Closes the node's gate for a reason of the caller's own, or opens it again (empty).
  void hold_node(const std::string& name, const std::string& reason, MonotonicTime now);

  /// Starts nothing any more, until `resume`. Submitted builds wait.
  void drain(MonotonicTime now);
  void resume(MonotonicTime now);

  /// Lets time pass: needed at `next_deadline` only.
  void advance(MonotonicTime now);
  /// When something happens by itself next (a delayed restart).
  [[nodiscard]] std::optional<MonotonicTime> next_deadline() const;

  /// Decisions made since the last call.
  [[nodiscard]] std::vector<Decision> take_decisions();

  /// Absent for a build that is not known (any more).
  [[nodiscard]] std::optional<Explanation> explain(BuildId id, MonotonicTime now) const;
  [[nodiscard]] SchedulerCounts counts() const noexcept;
  [[nodiscard]] AccountUsage usage(const std::string& account) const;
  [[nodiscard]] std::vector<NodeState> nodes() const;
  /// Nothing runs (what waits may still be there): with `drain`, the time to exit.
  [[nodiscard]] bool idle() const noexcept;

  /// At start: what the database has, oldest first.
  void learn(const BuildRecord& record);

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The family of platforms that share machines and therefore one order: `i686-linux` goes with
/// `x86_64-linux`, `armv7l-linux` and `armv6l-linux` with `aarch64-linux`, any other by itself.
[[nodiscard]] NIXBUILD_API std::string_view pool_of(std::string_view platform) noexcept;

/// In lower case with dashes (`builder-failed`), for logs and JSON.
[[nodiscard]] NIXBUILD_API std::string_view name_of(Verdict verdict) noexcept;

} // namespace nixbuild::scheduler
