#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace nixbuild::build {

/// Machines of builds that failed, which wait for somebody who wants to look around in them
/// (decision 0023). They hold their memory beside that of the builds that run, so they are few.
/// Thread safe.
class NIXBUILD_API KeptMachines {
public:
  struct Settings {
    std::size_t most = 1; ///< at one time, of all accounts; 0: none is kept
    std::chrono::minutes time{30};
  };

  /// The clock outlives it.
  KeptMachines(const Clock& clock, Settings settings);
  ~KeptMachines();
  KeptMachines(const KeptMachines&) = delete;
  KeptMachines& operator=(const KeptMachines&) = delete;

  [[nodiscard]] const Settings& settings() const noexcept { return settings_; }

  /// Takes over the machine, whose builder has ended; nobody else may use the execution any more.
  /// The one that has waited longest goes where there are too many. False, and nothing is taken,
  /// when each place has somebody in it.
  [[nodiscard]] bool keep(store::AccountId account,
                          std::int64_t build,
                          std::unique_ptr<sandbox::Execution>& execution);

  /// Somebody's time in a machine: exclusive, and without an end as long as this lives.
  class NIXBUILD_API Visit {
  public:
    ~Visit();
    Visit(Visit&&) noexcept;
    Visit& operator=(Visit&&) = delete;

    /// Null once `close` was called.
    [[nodiscard]] sandbox::Execution& execution() noexcept { return *execution_; }

    /// The machine is good for nobody any more.
    void close() noexcept { execution_.reset(); }

  private:
    friend class KeptMachines;

    Visit(KeptMachines& machines, std::int64_t build) : machines_(&machines), build_(build) {}

    KeptMachines* machines_;
    std::int64_t build_;
    std::unique_ptr<sandbox::Execution> execution_;
  };

  /// Errors: `kept.none` (NotFound: the account has no such machine, or has it no more),
  /// `kept.busy` (somebody else is in it).
  [[nodiscard]] Visit visit(store::AccountId account, std::int64_t build);

  /// Ends those whose time is over and that nobody is in. To be called now and then.
  void tidy();
  [[nodiscard]] std::size_t count() const;

private:
  struct Place {
    store::AccountId account;
    std::int64_t build = 0;
    MonotonicTime until;
    std::unique_ptr<sandbox::Execution> execution; ///< null: somebody is in it
  };

  void leave(std::int64_t build, std::unique_ptr<sandbox::Execution> execution) noexcept;

  const Clock& clock_;
  Settings settings_;
  mutable std::mutex mutex_;
  std::vector<Place> places_;
};

} // namespace nixbuild::build
