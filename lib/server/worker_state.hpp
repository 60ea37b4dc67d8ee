#pragma once

#include "client_streams.hpp"
#include "framed_payload.hpp"
#include "graph_run.hpp"
#include "questions_ahead.hpp"
#include "refusals.hpp"
#include "told_log.hpp"

#include <nixbuild/protocol/worker.hpp>
#include <nixbuild/server/worker_session.hpp>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace nixbuild::server {

/// One worker session: its streams, its reader, what was agreed on, what it has been told is valid.
class WorkerState : public std::enable_shared_from_this<WorkerState> {
public:
  WorkerState(const SessionParts& parts,
              SessionLimits limits,
              SessionCaller caller,
              std::shared_ptr<aio::ByteStream> in,
              std::shared_ptr<aio::ByteStream> out);

  /// The conversation; throws what ends it early.
  aio::Task<void> converse();
  /// Says a failure in the protocol, as far as the client takes it.
  aio::Task<void> say_last_words(std::string message);

  [[nodiscard]] const SessionCaller& caller() const noexcept { return caller_; }

private:
  aio::Task<bool> fill(std::chrono::milliseconds patience);
  template <class Work>
  aio::Task<std::invoke_result_t<Work&>> run_long(Work work); // worker_upkeep.cpp
  aio::Task<bool> greet();
  /// One operation, from its request to its reply or failure.
  aio::Task<void> serve(protocol::worker::Request request);
  /// For the build's record: what has been done since `begin_us`.
  void note_time(const protocol::worker::Request& request, std::int64_t begin_us);
  aio::Task<void> send();
  /// Last and the reply, gathered.
  void conclude(const protocol::worker::Reply& reply);
  void say(const protocol::worker::LogMessage& message);
  void say_failure(const protocol::worker::Request& request, const Error& failure);
  /// Says the failure; rethrows one that ends the session.
  void refuse(const protocol::worker::Request& request, const std::exception_ptr& failure);
  /// Error `worker.invalid-path`, in Nix's words.
  [[noreturn]] void fail_invalid(const model::StorePath& path) const;
  aio::Task<bool> valid(model::StorePath path);

  // worker_ahead.cpp
  using Asked = AskedAhead<protocol::worker::Request, protocol::worker::Reply>;
  [[nodiscard]] static bool is_question(const protocol::worker::Request& request);
  /// Answers all of them at once, in order.
  aio::Task<void> serve_ahead(std::vector<protocol::worker::Request> questions);
  static aio::Task<void> answer(std::shared_ptr<WorkerState> self, std::shared_ptr<Asked> asked);
  /// Checks the permission, and looks up.
  aio::Task<protocol::worker::Reply> find_answer(protocol::worker::Request& question);

  // worker_queries.cpp: questions change nothing but the lease and write nothing by themselves, so
  // that several can be answered at once.
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::IsValidPath& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryReferrers& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryDeriver& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QuerySubstitutablePathInfo& request);
  aio::Task<protocol::worker::Reply>
  look_up(protocol::worker::QuerySubstitutablePathInfos& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QuerySubstitutablePaths& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryDerivationOutputs& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryDerivationOutputNames& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryDerivationOutputMap& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryAllValidPaths& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryPathInfo& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryPathFromHashPart& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryValidPaths& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryValidDerivers& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryMissing& request);
  aio::Task<protocol::worker::Reply> look_up(protocol::worker::QueryRealisation& request);
  aio::Task<void> perform(protocol::worker::NarFromPath& request);
  aio::Task<std::optional<model::Realisation>>
  find_realisation(const protocol::worker::DrvOutput& output);
  [[nodiscard]] store::RealisationKey
  realisation_key(const protocol::worker::DrvOutput& output) const;
  using OutputPaths = std::map<std::string, std::optional<model::StorePath>>;
  aio::Task<OutputPaths> outputs_of(const model::StorePath& path);

  // worker_import.cpp
  aio::Task<void> perform(protocol::worker::AddToStore& request);
  aio::Task<void> perform(protocol::worker::AddTextToStore& request);
  aio::Task<void> perform(protocol::worker::AddToStoreNar& request);
  aio::Task<void> perform(protocol::worker::AddMultipleToStore& request);
  aio::Task<void> perform(protocol::worker::AddBuildLog& request);
  aio::Task<void> perform(protocol::worker::AddSignatures& request);
  aio::Task<void> perform(protocol::worker::RegisterDrvOutput& request);
  aio::Task<model::PathInfo> add_archive(protocol::worker::AddToStore& request);
  aio::Task<void> receive_inside(model::PathInfo info);
  aio::Task<model::PathInfo> add_file(protocol::worker::AddToStore& request);

  // worker_build.cpp
  aio::Task<void> perform(protocol::worker::BuildPaths& request);
  aio::Task<void> perform(protocol::worker::BuildPathsWithResults& request);
  aio::Task<void> perform(protocol::worker::BuildDerivation& request);
  aio::Task<void> perform(protocol::worker::EnsurePath& request);
  /// Failures that a reply with one message does not tell.
  aio::Task<void> say_other_failures(std::span<const TargetResult> results);
  aio::Task<std::vector<TargetResult>> build(std::vector<protocol::DerivedPath> targets,
                                             protocol::worker::BuildMode mode);
  static bool is_check(protocol::worker::BuildMode mode);
  /// Error `worker.max-jobs` where outputs would have to be built for a client that has none built.
  aio::Task<void> expect_buildable(const model::BasicDerivation& derivation);

  // worker_inside.cpp: what differs for a client of a builder's.
  /// The reply, where it is not the one that everybody else gets; narrows the question otherwise.
  [[nodiscard]] std::optional<protocol::worker::Reply>
  answer_inside(protocol::worker::Request& question) const;
  /// True: the request has had its answer. Throws for what is not offered there.
  [[nodiscard]] bool settle_inside(const protocol::worker::Request& request);
  void expect_allowed(std::span<const model::StorePath> paths) const;
  [[nodiscard]] bool allows(const model::StorePath& path) const;
  /// Lets paths that have been added or built into the builder's machine; nothing happens for
  /// others.
  aio::Task<void> admit(model::StorePaths paths);

  // worker_upkeep.cpp
  aio::Task<void> perform(protocol::worker::AddTempRoot& request);
  aio::Task<void> perform(protocol::worker::AddIndirectRoot& request);
  aio::Task<void> perform(protocol::worker::AddPermRoot& request);
  aio::Task<void> perform(protocol::worker::SyncWithGC& request);
  aio::Task<void> perform(protocol::worker::FindRoots& request);
  aio::Task<void> perform(protocol::worker::SetOptions& request);
  aio::Task<void> perform(protocol::worker::CollectGarbage& request);
  protocol::worker::GarbageReply collect(const protocol::worker::CollectGarbage& request);
  aio::Task<void> perform(protocol::worker::OptimiseStore& request);
  aio::Task<void> perform(protocol::worker::VerifyStore& request);

  const SessionParts& parts_;
  SessionLimits limits_;
  SessionCaller caller_;
  store::AccountId account_;
  std::shared_ptr<aio::ByteStream> in_;
  std::shared_ptr<SharedWriter> out_;
  protocol::worker::RequestReader reader_;
  protocol::worker::Peer peer_;
  store::Lease lease_;
  Bytes buffer_;
  std::string reply_;
  std::optional<FramedPayload> frames_; ///< of the operation that is being served
  std::shared_ptr<std::uint64_t> last_activity_ = std::make_shared<std::uint64_t>(0);
  model::BuildOptions options_; ///< from SetOptions
  bool keep_going_ = false;
  aio::Event answered_;                            ///< one of the questions that came ahead
  bool may_build_ = true;                          ///< false: the client's `max-jobs` is 0
  std::size_t log_lines_ = LogTail::kDefaultLines; ///< of a failed build, in its error
  std::shared_ptr<bool> emulation_told_ = std::make_shared<bool>(false); ///< see BuildAsker
  Refusals refusals_;
  model::StorePathSet targets_; ///< derivations asked to be built whose outputs nobody noted yet
};

} // namespace nixbuild::server
