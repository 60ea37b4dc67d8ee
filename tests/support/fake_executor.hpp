#pragma once

#include <nixbuild/sandbox/executor.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// Builds that happen on paper: a script says what each one logs, how it ends and what it makes.
namespace nixbuild::tests {

/// What one build does.
struct FakeBuild {
  struct Piece {
    std::string log;
    std::chrono::milliseconds before{0}; ///< silence before it
  };

  std::vector<Piece> log;
  std::chrono::milliseconds before_exit{0};
  /// `outputs` of it is filled in from `nars` where it is empty: present where a NAR is not empty.
  sandbox::GuestExit exit;
  std::vector<std::string> nars;     ///< whole archives, in the job's order; empty: not made
  std::size_t nar_piece = 64 * 1024; ///< bytes a read gives at most
  std::chrono::milliseconds before_nar_piece{0}; ///< that each of them takes
  bool has_terminal = false; ///< whose shell says again what is typed, and ends with "exit"
  /// Thrown by next_event instead of the exit (a lost machine: `sandbox.lost`).
  std::optional<std::string> lost{};
  std::string lost_code = "sandbox.lost";
  std::optional<std::chrono::microseconds> cpu_of_host{};
  /// Thrown by start (`sandbox.spawn`).
  std::optional<std::string> no_start{};
};

/// What the executor has been asked to do, and how it ended.
struct FakeRun {
  FakeBuild build;
  unsigned adopted = 0; ///< how often
  sandbox::GuestJob job;
  std::string id;
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  std::uint64_t memory_bytes = 0;
  std::uint64_t scratch_bytes = 0;
  std::size_t extents = 0;
  std::uint64_t disk_bytes = 0;
  bool exited = false;
  bool finished = false;
  bool cancelled = false; ///< cancelled, or destroyed before it was finished
};

/// The machines of a host, which outlive the daemon that started them.
struct FakeHost {
  std::map<std::string, std::shared_ptr<FakeRun>> machines; ///< by plan
  /// The daemon has been killed: what its objects do on their way out reaches no machine.
  bool daemon_killed = false;
  bool adopting_fails = false;
  /// What is left of the host after a fault of its own.
  sandbox::HostVerdict verdict;
  std::vector<std::string> faults; ///< told to it
  std::vector<std::string> swept;
};

class FakeExecutor final : public sandbox::Executor {
public:
  using Script = std::function<FakeBuild(const sandbox::ExecutionPlan&)>;

  FakeExecutor(boost::asio::any_io_executor executor,
               Script script,
               std::shared_ptr<FakeHost> host = std::make_shared<FakeHost>());

  aio::Task<std::unique_ptr<sandbox::Execution>> start(sandbox::ExecutionPlan plan) override;

  aio::Task<std::unique_ptr<sandbox::Execution>>
  adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) override;
  aio::Task<void> sweep(std::vector<std::string> kept) override;

  sandbox::HostVerdict host_failed(const std::string& reason) override {
    host_->faults.push_back(reason);
    return host_->verdict;
  }

  [[nodiscard]] std::string accelerator() const override { return "fake"; }

  /// Every start so far, in order. Shared with the executions, which may outlive this object.
  [[nodiscard]] const std::vector<std::shared_ptr<FakeRun>>& runs() const { return runs_; }

private:
  boost::asio::any_io_executor executor_;
  Script script_;
  std::shared_ptr<FakeHost> host_;
  std::vector<std::shared_ptr<FakeRun>> runs_;
};

/// A NAR of one regular file, for scripts.
[[nodiscard]] std::string nar_of_file(std::string_view contents, bool executable = false);

} // namespace nixbuild::tests
