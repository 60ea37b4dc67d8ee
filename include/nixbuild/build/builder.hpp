#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/build/builder_store.hpp>
#include <nixbuild/build/kept_machines.hpp>
#include <nixbuild/build/lease_desk.hpp>
#include <nixbuild/build/log_feed.hpp>
#include <nixbuild/build/policy.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/signature.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/store.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::build {

/// The line of a log, behind `[nixbuild] `, that says that its builder runs under emulation.
inline constexpr std::string_view kEmulationNotice =
    "no usable KVM: building under software emulation, which is slow and no security boundary";

/// What the scheduler is told of a build beside its derivation. Absent sizes: the machine's usual.
struct Placement {
  std::string key; ///< of the account; shares inside an account are by key
  std::set<std::string> tags;
  int priority = 0;
  std::size_t builds_behind = 0; ///< see scheduler::BuildRequest
  bool interactive = false;
  std::optional<unsigned> min_cpus;
  std::optional<unsigned> max_cpus;
  std::optional<unsigned> default_cpus;
  std::optional<std::uint64_t> min_memory_bytes;
  std::optional<std::uint64_t> default_memory_per_cpu_bytes;
};

struct BuildRequest {
  store::AccountId account;
  model::StorePath derivation_path;
  model::BasicDerivation derivation;
  model::BuildOptions options;
  std::optional<BuildPolicy> policy{}; ///< absent: that of the builder's settings
  Placement placement{};
  /// How content-addressed outputs that refer to themselves are named; the asker's Nix must agree.
  model::SelfReferences self_references = model::SelfReferences::WithOffsets;
  /// Build it although its outputs are valid, keep nothing, and compare: what differs is told in
  /// the log, and the build fails as NotDeterministic. Outputs that are not valid are an error.
  bool check = false;
  store::SessionSpans session{}; ///< what the asker's session did before, for the record
  /// Somebody has computed that the outputs' paths follow from the derivation. Else they are the
  /// account's own word: the result is kept from other accounts, and not signed.
  bool proven = false;
  /// Derivations whose builders wait for this build, the outermost first (BuilderStore); empty:
  /// whoever waits holds no machine.
  std::vector<model::StorePath> waiting{};
};

/// What the machine of a fixed-output build is given beside its inputs. Source: protocol facts 5.2.
struct BuildNetwork {
  std::string certificates; ///< contents of its CA bundle
  std::string services;     ///< contents of its /etc/services
  std::string netrc;        ///< credentials for `builtin:fetchurl`; no other builder sees them
  /// Values of the variables that a derivation names in `impureEnvVars`; others are empty.
  std::map<std::string, std::string> impure_environment;
};

/// What is the same for every build of one machine.
struct BuilderSettings {
  unsigned cpus = 1;                 ///< per build, when nothing asks for more
  unsigned max_cpus = 0;             ///< that a build may be given; 0: never more than `cpus`
  std::uint64_t memory_bytes = kGiB; ///< per build of `cpus`, when nothing asks for more
  std::uint64_t min_memory_bytes = 512 * kMiB; ///< however little earlier builds have needed
  std::uint64_t max_log_bytes = 256 * kMiB;    ///< bound of every log, whatever the client says
  std::uint64_t max_output_bytes = 64 * kGiB;  ///< of one output's NAR
  std::chrono::seconds lost_after{300};        ///< a VM that says nothing before its builder runs
  /// A machine that gives its outputs more slowly, while it is waited for, has failed: bytes a
  /// second, over so long a time.
  std::uint64_t output_floor_bytes = 64 * kKiB;
  std::chrono::milliseconds output_floor_time{60'000};
  unsigned build_cores = 1;           ///< NIX_BUILD_CORES
  bool allow_emulation = false;       ///< software emulation even where several accounts are served
  std::uint64_t max_memory_bytes = 0; ///< after running out of memory; 0: never more than at first
  BuildPolicy policy;                 ///< of requests that bring none
  std::optional<BuildNetwork> network; ///< of fixed-output builds; absent: they have none either
};

/// What a build is made from, held for it.
struct BuildInputs {
  store::Lease lease;
  model::StorePaths closure;
  std::optional<model::StorePath> missing; ///< an input that is not valid
  /// Of derivation, platform, and name, NAR hash and references of every path of the closure.
  /// Absent where an input is missing, and where the result is nobody else's business (impure).
  std::optional<Hash> key;
};

/// Steers a build from another strand. Thread safe; survives the build.
class NIXBUILD_API BuildControl {
public:
  /// The build ends soon with `build.cancelled`.
  void cancel() noexcept { cancelled_.store(true); }

  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(); }

  /// This daemon is about to end: from now on a failure or the destruction of the build leaves its
  /// machine running and its record open, for the next daemon to take up.
  void leave_running() noexcept { left_running_.store(true); }

  [[nodiscard]] bool left_running() const noexcept { return left_running_.load(); }

  /// A builder that holds a machine waits for this build: it may not wait for that machine.
  void hurry() noexcept { hurried_.store(true); }

  [[nodiscard]] bool hurried() const noexcept { return hurried_.load(); }

  /// Somebody who takes part does not share results with other accounts.
  void keep_private() noexcept { private_.store(true); }

  [[nodiscard]] bool is_private() const noexcept { return private_.load(); }

  /// Somebody who takes part knows that the outputs follow from the derivation.
  void prove() noexcept { proven_.store(true); }

  [[nodiscard]] bool is_proven() const noexcept { return proven_.load(); }

  /// Its machine was started then; nothing: it has none.
  void set_began(MonotonicTime when) noexcept { began_.store(when); }

  [[nodiscard]] std::optional<MonotonicTime> began() const noexcept {
    const auto when = began_.load();
    return when == MonotonicTime() ? std::nullopt : std::optional(when);
  }

private:
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> left_running_{false};
  std::atomic<bool> private_{false};
  std::atomic<bool> proven_{false};
  std::atomic<bool> hurried_{false};
  std::atomic<MonotonicTime> began_{MonotonicTime()};
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
    /// Told of each record that has ended, once, on the strand of the build. Must not throw.
    std::function<void(const store::BuildRecord&)> on_end = nullptr;
    KeptMachines* kept = nullptr; ///< absent: no machine is kept
    /// Told of each conversation that a builder opens with a store, on the strand of the build.
    /// Absent: builders that ask for `recursive-nix` have nothing to talk to. Must not throw.
    std::function<void(BuilderConversation)> converse = nullptr;
  };

  /// The parts outlive the builder.
  Builder(Parts parts, BuilderSettings settings);

  /// Runs one build from beginning to end. Every failure that a client should hear of is a status
  /// in the result; an exception is a fault of this machine or a cancellation
  /// (`build.cancelled`). Log bytes go to `feed` and to the log store under the build's number,
  /// which `on_number` is told as soon as it is known. Lines of the builder's own begin with
  /// `[nixbuild] `. A machine that ran out of memory or was lost is replaced, within the bounds of
  /// the policy. `inputs` as resolve gave them; absent: resolved first.
  aio::Task<model::BuildResult> run(BuildRequest request,
                                    std::shared_ptr<LogFeed> feed,
                                    std::shared_ptr<BuildControl> control,
                                    std::function<void(std::int64_t)> on_number,
                                    std::shared_ptr<BuildInputs> inputs = nullptr);

  /// Takes up a build that an earlier daemon left open: follows the machine that still runs it, or,
  /// where there is none and `wanted` says so in the end, starts a new one; else the build is
  /// recorded as interrupted. An exception of `wanted` leaves it as run's exceptions do. `feed`
  /// begins where the stored log ends.
  aio::Task<model::BuildResult> resume(store::OpenBuild open,
                                       BuildRequest request,
                                       std::shared_ptr<LogFeed> feed,
                                       std::shared_ptr<BuildControl> control,
                                       std::function<aio::Task<bool>()> wanted,
                                       std::shared_ptr<BuildInputs> inputs);

  /// What an open build was asked to do. Errors: `build.request`, those of parse_derivation.
  [[nodiscard]] BuildRequest request_of(const store::OpenBuild& open) const;
  /// Leases outputs and inputs and computes the key. Blocking.
  [[nodiscard]] std::shared_ptr<BuildInputs> resolve(const BuildRequest& request);
  /// The result, when all outputs are valid already; the lease of `inputs` gets them. Blocking.
  [[nodiscard]] std::optional<model::BuildResult> find_valid(const BuildRequest& request,
                                                             BuildInputs& inputs);
  /// Ends the record of a build that nobody takes up again, as a transient failure. Blocking.
  void give_up(const store::OpenBuild& open, const std::string& why);

  [[nodiscard]] const Parts& parts() const noexcept { return parts_; }

  [[nodiscard]] const BuildPolicy& policy_of(const BuildRequest& request) const noexcept {
    return request.policy ? *request.policy : settings_.policy;
  }

private:
  Parts parts_;
  BuilderSettings settings_;
};

} // namespace nixbuild::build
