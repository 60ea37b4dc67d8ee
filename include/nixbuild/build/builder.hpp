#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/build/lease_desk.hpp>
#include <nixbuild/build/log_feed.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/signature.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/store.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace nixbuild::build {

struct BuildRequest {
  store::AccountId account;
  model::StorePath derivation_path;
  model::BasicDerivation derivation;
  model::BuildOptions options;
};

/// What is the same for every build of one machine.
struct BuilderSettings {
  unsigned cpus = 1;                          ///< per build, when nothing asks for more
  std::uint64_t memory_bytes = kGiB;          ///< per build
  std::uint64_t scratch_bytes = 0;            ///< 0: half of memory
  std::uint64_t max_log_bytes = 256 * kMiB;   ///< bound of every log, whatever the client says
  std::uint64_t max_output_bytes = 64 * kGiB; ///< of one output's NAR
  std::chrono::seconds lost_after{300};       ///< a VM that says nothing before its builder runs
  unsigned build_cores = 1;                   ///< NIX_BUILD_CORES
  bool allow_emulation = false; ///< software emulation even where several accounts are served
};

/// Stops a build from another strand. Thread safe; survives the build.
class NIXBUILD_API BuildControl {
public:
  /// The build ends soon with `build.cancelled`.
  void cancel() noexcept { cancelled_.store(true); }

  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(); }

private:
  std::atomic<bool> cancelled_{false};
};

/// Runs builds on this machine: resolves inputs, composes their disk, has the sandbox run the
/// builder, checks the outputs by Nix's rules and registers them. Used from any strand.
class NIXBUILD_API Builder {
public:
  struct Parts {
    store::Store& store;
    store::LogStore& logs;
    sandbox::Executor& executor;
    LeaseDesk& leases;
    aio::BlockingPool& pool;
    const Clock& clock;
    Log& log;
    const model::SigningKey* signing_key = nullptr; ///< signs what is built; absent: unsigned
  };

  /// The parts outlive the builder.
  Builder(Parts parts, BuilderSettings settings);

  /// Runs one build from beginning to end. Every failure that a client should hear of is a status
  /// in the result; an exception is a fault of this machine or a cancellation
  /// (`build.cancelled`). Log bytes go to `feed` and to the log store under the build's number,
  /// which `on_number` is told as soon as it is known.
  aio::Task<model::BuildResult> run(BuildRequest request,
                                    std::shared_ptr<LogFeed> feed,
                                    std::shared_ptr<BuildControl> control,
                                    std::function<void(std::int64_t)> on_number);

private:
  Parts parts_;
  BuilderSettings settings_;
};

} // namespace nixbuild::build
