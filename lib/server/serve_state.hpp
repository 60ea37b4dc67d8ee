#pragma once

#include "archive_intake.hpp"
#include "client_streams.hpp"
#include "graph_run.hpp"
#include "questions_ahead.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/serve.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nixbuild::server {

/// Descriptions of paths that are gathered before they are sent.
inline constexpr std::size_t kInfosAtOnce = 2000;

/// One serve session: its streams, its reader, what it has been told is valid.
class ServeState : public std::enable_shared_from_this<ServeState> {
public:
  ServeState(const SessionParts& parts,
             SessionLimits limits,
             SessionCaller caller,
             std::shared_ptr<aio::ByteStream> in,
             std::shared_ptr<aio::ByteStream> out,
             std::shared_ptr<aio::ByteStream> err);

  /// The conversation; throws what ends it early.
  aio::Task<void> converse();
  /// `error: …` on the client's standard error, as far as it takes it.
  aio::Task<void> complain(std::string message);

  [[nodiscard]] const SessionCaller& caller() const noexcept { return caller_; }

private:
  aio::Task<bool> fill(std::chrono::milliseconds patience);
  aio::Task<bool> greet();
  /// One command, from its request to its reply.
  aio::Task<void> serve(protocol::serve::Request request);
  aio::Task<void> perform(protocol::serve::Request request);
  /// Answers what is not permitted, where the protocol has an answer for it; else throws.
  aio::Task<void> refuse(protocol::serve::Request& request, Error refusal);
  aio::Task<void> reply();

  // serve_ahead.cpp
  using Asked = AskedAhead<protocol::serve::Request, std::string>;
  [[nodiscard]] static bool is_question(const protocol::serve::Request& request);
  /// Answers all of them at once, in order.
  aio::Task<void> serve_ahead(std::vector<protocol::serve::Request> questions);
  static aio::Task<void> answer(std::shared_ptr<ServeState> self, std::shared_ptr<Asked> asked);

  // serve_queries.cpp: questions change nothing but the lease and write nothing by themselves, so
  // that several can be answered at once.
  aio::Task<std::string> look_up(protocol::serve::QueryValidPaths& request);
  aio::Task<std::string> look_up(protocol::serve::QueryPathInfos& request);
  aio::Task<std::string> look_up(protocol::serve::QueryClosure& request);
  /// Of so many paths that the answer is sent in pieces.
  aio::Task<void> query_many_infos(protocol::serve::QueryPathInfos request);
  aio::Task<void> gather_infos(std::span<const model::StorePath> paths, std::string& gathered);

  aio::Task<void> dump(model::StorePath path);
  aio::Task<void> export_paths(protocol::serve::ExportPaths request);
  aio::Task<void> add_to_store_nar(protocol::serve::AddToStoreNar request);
  aio::Task<void> import_paths();
  aio::Task<void> refuse_path(const protocol::serve::AddToStoreNar& request, std::string why);
  aio::Task<void> build_derivation(protocol::serve::BuildDerivation request);
  aio::Task<model::BuildResult> build_one(protocol::serve::BuildDerivation& request);
  aio::Task<void> build_paths(protocol::serve::BuildPaths request);
  aio::Task<std::vector<TargetResult>> build_all(protocol::serve::BuildPaths& request);

  const SessionParts& parts_;
  SessionLimits limits_;
  SessionCaller caller_;
  store::AccountId account_;
  std::shared_ptr<aio::ByteStream> in_;
  std::shared_ptr<aio::ByteStream> out_;
  std::shared_ptr<SharedWriter> err_;
  protocol::serve::RequestReader reader_;
  protocol::Version version_ = protocol::serve::kServerVersion;
  store::Lease lease_;
  Bytes buffer_;
  std::string reply_;
  aio::Event answered_; ///< one of the questions that came ahead
  std::shared_ptr<bool> emulation_told_ = std::make_shared<bool>(false); ///< see BuildAsker
};

} // namespace nixbuild::server
