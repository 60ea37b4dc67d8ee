#pragma once

#include "derivation_options.hpp"
#include "steps.hpp"
#include "watchdog.hpp"

#include <nixbuild/build/builder.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nixbuild::build {

/// One build's life: one machine after another until one of them brings it to its end.
class Attempt {
public:
  Attempt(const Builder::Parts& parts,
          const BuilderSettings& settings,
          BuildRequest request,
          std::shared_ptr<LogFeed> feed,
          std::shared_ptr<BuildControl> control,
          std::shared_ptr<BuildInputs> inputs);
  ~Attempt();
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  aio::Task<model::BuildResult> run(const std::function<void(std::int64_t)>& on_number);
  aio::Task<model::BuildResult> resume(store::OpenBuild open,
                                       const std::function<aio::Task<bool>()>& wanted);

private:
  /// How one machine ended.
  enum class Round { Done, OutOfMemory, Lost, Again };

  void describe();
  void name_outputs();
  aio::Task<bool> outputs_valid();
  aio::Task<void> resolve_inputs();
  void check_inputs();
  void expect_valid(bool valid) const;
  aio::Task<void> open_record();

  aio::Task<bool> reuse(model::BuildResult& result);
  aio::Task<bool> reuse_success(const store::BuildOutcome& outcome);
  aio::Task<void> repeat_log(std::int64_t build);
  [[nodiscard]] bool proven() const noexcept;
  [[nodiscard]] bool may_repeat(const store::BuildOutcome& outcome) const;

  aio::Task<bool> adopt(const store::OpenBuild& open);
  aio::Task<model::BuildResult> build();
  aio::Task<Round> use_machine();
  aio::Task<Round> follow_to_the_end();
  aio::Task<void> make_machine();
  aio::Task<Round> take_host_fault(std::string reason);
  void prepare_again(Round round);
  [[nodiscard]] scheduler::BuildRequest queue_request() const;
  [[nodiscard]] scheduler::Measurements measured() const;
  [[nodiscard]] scheduler::Outcome outcome_for(const model::BuildResult& result) const;
  [[nodiscard]] std::uint64_t memory_bound() const;
  aio::Task<void> lease_machine();
  aio::Task<void> choose_accelerator();
  aio::Task<void> begin_attempt(const std::string& plan);
  aio::Task<void> connect(sandbox::GuestJob& job);
  void furnish(sandbox::GuestJob& job);
  aio::Task<void> start();
  aio::Task<void> watch();
  aio::Task<sandbox::BuilderExited> follow();
  void take_figures(sandbox::BuilderExited end);
  aio::Task<void> settle_unexecuted();
  aio::Task<void> converse(sandbox::StoreConversation begun);

  aio::Task<void> take_log(std::string bytes);
  aio::Task<void> say(std::string line);
  void judge(const sandbox::GuestExit& exit) const;
  [[nodiscard]] std::string disk_note(const sandbox::GuestExit& exit) const;
  void judge_outputs(const sandbox::GuestExit& exit) const;
  aio::Task<void> collect();
  aio::Task<void> compare_outputs();
  aio::Task<bool> compare_output(std::size_t index);
  [[nodiscard]] store::ImportRequest output_import(std::size_t index) const;
  aio::Task<void> read_output(std::size_t index, const std::function<void(ByteView)>& take);
  aio::Task<model::PathInfo> collect_output(std::size_t index);
  aio::Task<void>
  keep_misnamed(store::Import& import, std::string_view name, const model::ContentAddress& address);
  aio::Task<void> collect_made();
  struct NewNames;
  /// Outputs whose paths are made of their contents; those that are not taken yet are absent.
  using MadeOutputs = std::vector<std::optional<model::PathInfo>>;
  aio::Task<std::optional<model::PathInfo>> collect_plain(std::size_t index,
                                                          model::StorePaths& references);
  [[nodiscard]] NewNames
  new_names(std::size_t index, const model::StorePaths& found, const MadeOutputs& made) const;
  aio::Task<model::PathInfo>
  collect_rewritten(std::size_t index, const model::StorePaths& found, const MadeOutputs& made);
  [[nodiscard]] model::MethodAlgorithm method_of(std::size_t index) const;
  [[nodiscard]] std::vector<store::StoredRealisation> realisations() const;
  std::vector<model::PathInfo> signed_outputs(const std::vector<std::size_t>& order);
  void set_failure(model::BuildResult& result, const std::exception_ptr& fault) const;
  [[noreturn]] void throw_stopped() const;
  [[noreturn]] void throw_superseded() const;

  aio::Task<model::BuildResult> conclude(model::BuildResult result, std::exception_ptr fault);
  aio::Task<void> end_record(const model::BuildResult& result);
  [[nodiscard]] std::optional<store::BuildOutcome>
  outcome_of(const model::BuildResult& result) const;
  aio::Task<void> keep_machine(const model::BuildResult& result);
  void note_phase(const std::string& phase, std::chrono::microseconds at);
  [[nodiscard]] std::int64_t now_us() const;
  void set_clock(std::int64_t wall_us, std::chrono::microseconds ago);
  [[nodiscard]] std::string phases_json() const;
  model::BuildResult success(model::BuildStatus status) const;

  const Builder::Parts& parts_;
  const BuilderSettings& settings_;
  BuildRequest request_;
  BuildPolicy policy_;
  std::shared_ptr<LogFeed> feed_;
  std::shared_ptr<BuildControl> control_;
  std::shared_ptr<BuildInputs> inputs_;
  std::shared_ptr<Watch> watch_;
  std::string drv_text_;
  DerivationOptions options_;

  /// The clock of its record: the time of day at one moment, and from then on one that nobody sets,
  /// so that what is booked is what it took.
  std::int64_t clock_wall_us_ = 0;
  MonotonicTime clock_at_;

  store::BuildRecord record_;
  bool settled_ = false;       ///< the record is no longer open
  bool left_open_ = false;     ///< it stays open, for a later daemon
  bool enlarged_ = false;      ///< it has been given more memory once
  bool repeatable_ = false;    ///< a failure that is the builder's own
  bool adopted_ = false;       ///< the machine was started by an earlier daemon
  bool waited_ = false;        ///< for capacity, and said so
  bool builder_ended_ = false; ///< of this machine, by itself
  bool fresh_line_ = true;     ///< the log is at the beginning of a line
  unsigned lost_ = 0;          ///< machines so far
  std::string lost_why_;
  std::uint64_t builder_log_bytes_ = 0;
  std::vector<std::string> output_names_;
  model::OutputKind kind_ = model::OutputKind::InputAddressed;
  model::StorePaths output_paths_; ///< where the builder makes them
  model::StorePaths made_paths_;   ///< where they are, once that is known; in the same order
  std::map<std::string, std::vector<std::string>> output_signatures_;
  ComputeLease machine_;
  bool same_machine_ = false; ///< the next round keeps `machine_`
  bool queued_again_ = false; ///< the scheduler gives `machine_` another grant by itself
  std::unique_ptr<sandbox::Execution> execution_;
  std::shared_ptr<BuilderStore> builder_store_; ///< of this machine, once it is known
  std::shared_ptr<int> conversations_ = std::make_shared<int>(0); ///< each open one shares it
  sandbox::GuestExit exit_;
  std::chrono::microseconds cpu_taken_{0}; ///< by this machine, as its host counts it
  std::vector<model::PathInfo> built_;
  std::vector<std::pair<std::string, std::chrono::microseconds>> phases_;
};

} // namespace nixbuild::build
