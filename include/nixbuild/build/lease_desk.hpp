#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/scheduler/scheduler.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nixbuild::build {

struct LeaseDeskState;

/// A build's place with the scheduler: a granted piece of a machine, or the wait for the next one
/// after a machine was lost or too small. Given back when destroyed. Thread safe.
class NIXBUILD_API ComputeLease {
public:
  ComputeLease() = default;
  ~ComputeLease();
  ComputeLease(ComputeLease&&) noexcept;
  ComputeLease& operator=(ComputeLease&&) noexcept;

  /// Capacity is held.
  [[nodiscard]] bool granted() const noexcept { return attempt_ != 0; }

  [[nodiscard]] const std::string& node() const noexcept { return node_; }

  [[nodiscard]] unsigned cpus() const noexcept { return cpus_; }

  [[nodiscard]] std::uint64_t memory_bytes() const noexcept { return memory_bytes_; }

  /// One sentence for people.
  [[nodiscard]] const std::string& why_size() const noexcept { return why_size_; }

  /// The machine has done its part; its capacity is free. True when the scheduler will give the
  /// build another one, for which LeaseDesk::again waits. Nothing happens without a grant.
  bool finish(scheduler::Outcome outcome, const scheduler::Measurements& measured);

private:
  friend class LeaseDesk;
  void give_back() noexcept;

  std::shared_ptr<LeaseDeskState> desk_;
  scheduler::BuildId id_ = 0;
  scheduler::AttemptNumber attempt_ = 0;
  std::string node_;
  unsigned cpus_ = 0;
  std::uint64_t memory_bytes_ = 0;
  std::string why_size_;
};

/// Lets coroutines of any strand wait for their turn with one Scheduler. Thread safe.
class NIXBUILD_API LeaseDesk {
public:
  /// Told, on the thread that learned it, what a run has taught. Must not call back.
  using Learn = std::function<void(const scheduler::BuildRecord&)>;

  /// `clock` outlives the desk.
  LeaseDesk(scheduler::SchedulerSettings settings,
            const std::vector<scheduler::NodeSpec>& nodes,
            const Clock& clock,
            Learn learn = nullptr);
  ~LeaseDesk();

  /// Queues the build and waits until it is granted a piece of a machine. Errors: the scheduler's
  /// refusal as Unsupported with its code, and `build.cancelled` once `give_up` (asked about once
  /// a second) says so. The build has then left the queue.
  ///
  /// `insist`, asked as often once the build has waited: somebody waits for it who holds a piece of
  /// a machine, and would wait for ever if there is no other. Such a build is granted its usual
  /// size whatever is free, but no more of them than builds with the feature `recursive-nix` run.
  aio::Task<ComputeLease> acquire(scheduler::BuildRequest request,
                                  std::function<bool()> give_up,
                                  std::function<bool()> insist = nullptr);
  /// Waits for the next piece after `ComputeLease::finish` said that there will be one. Errors as
  /// `acquire`.
  aio::Task<void>
  again(ComputeLease& lease, std::function<bool()> give_up, std::function<bool()> insist = nullptr);
  /// Counts a machine that runs already (`request.running` is set). It is granted whatever is free.
  [[nodiscard]] ComputeLease adopt(scheduler::BuildRequest request);

  void set_account(const scheduler::AccountPolicy& policy);
  /// The key's part of its account's share against the account's other keys, which have 1.
  void set_key_weight(const std::string& account, const std::string& key, double weight);
  void set_cpu_time_used(const std::string& account, scheduler::CpuTime used);
  void set_health(const std::string& node, const scheduler::NodeHealth& health);
  /// Starts nothing new; what runs goes on. With `refuse` whoever asks for a build should go
  /// elsewhere: `refuses` is true.
  void drain(bool refuse = false);
  void resume();
  [[nodiscard]] bool refuses() const;
  /// What earlier runs have taught, oldest first.
  void learn(const std::vector<scheduler::BuildRecord>& records);

  /// Absent for a build that neither waits nor runs.
  [[nodiscard]] std::optional<scheduler::Explanation> explain(scheduler::BuildId id) const;
  [[nodiscard]] scheduler::SchedulerCounts counts() const;
  [[nodiscard]] std::vector<scheduler::NodeState> nodes() const;
  [[nodiscard]] MonotonicTime now() const;

private:
  void take_over(ComputeLease& lease);

  std::shared_ptr<LeaseDeskState> state_;
};

} // namespace nixbuild::build
