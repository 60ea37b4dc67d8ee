#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/sandbox/executor.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace nixbuild::server {

/// An executor that is made when the first build needs it, so that a daemon without a kernel or a
/// hypervisor still serves its store, and starts in milliseconds. A failure to make it fails that
/// build, and the next one tries again. Once no machine has worked here, builds fail at once for
/// `kClosedFor`; then a machine without a build is tried, and only if that works is there a real
/// one. Thread safe.
class NIXBUILD_API LateExecutor final : public sandbox::Executor {
public:
  static constexpr std::chrono::seconds kClosedFor{30};
  /// A machine that was tried and worked speaks for the host so long.
  static constexpr std::chrono::seconds kTrusted{60};

  /// Who is told of faults of the host: what it is still good for, and why; and that machines work
  /// again. From any thread; each may be absent.
  struct Told {
    std::function<void(const sandbox::HostVerdict&)> fault;
    std::function<void()> works;
  };

  /// `make` may block; it is called on `pool`, which outlives the executor, as `clock` does.
  LateExecutor(std::function<std::unique_ptr<sandbox::Executor>()> make,
               aio::BlockingPool& pool,
               const Clock& clock,
               Told told = {});

  aio::Task<std::unique_ptr<sandbox::Execution>> start(sandbox::ExecutionPlan plan) override;
  aio::Task<std::unique_ptr<sandbox::Execution>>
  adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) override;
  aio::Task<void> sweep(std::vector<std::string> kept) override;
  aio::Task<std::string> prepare() override;
  sandbox::HostVerdict host_failed(const std::string& reason) override;
  [[nodiscard]] std::string accelerator() const override;
  [[nodiscard]] sandbox::WallReport walls() const override;
  [[nodiscard]] bool offers_network() const override;
  [[nodiscard]] bool offers_disk() const override;

private:
  using Shared = std::shared_ptr<sandbox::Executor>;

  /// For builds that begin, and (`running`) for those that have a machine already.
  enum class For : std::uint8_t { NewBuilds, RunningOnes };

  aio::Task<Shared> made(For whom);
  Shared make(For whom);
  Shared ready(For whom) const;
  void close(const std::string& reason);
  void tell(const sandbox::HostVerdict& verdict) const;

  std::function<std::unique_ptr<sandbox::Executor>()> make_;
  aio::BlockingPool& pool_;
  const Clock& clock_;
  Told told_;
  std::mutex making_;        ///< held while one is made or tried; the other one never is for long
  mutable std::mutex mutex_; ///< of what follows
  Shared real_;
  bool troubled_ = false;             ///< the last one could not be made, or is closed
  std::optional<std::string> closed_; ///< why no machine works
  MonotonicTime closed_until_;
  std::optional<MonotonicTime> worked_; ///< when a machine was tried the last time, and worked
};

} // namespace nixbuild::server
