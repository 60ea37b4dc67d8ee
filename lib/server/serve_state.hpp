#pragma once

#include "archive_intake.hpp"
#include "client_streams.hpp"

#include <nixbuild/protocol/serve.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <memory>
#include <optional>
#include <string>

namespace nixbuild::server {

/// One serve session: its streams, its reader, what it has been told is valid.
class ServeState {
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

private:
  aio::Task<bool> fill(std::chrono::milliseconds patience);
  aio::Task<bool> greet();
  aio::Task<void> answer(protocol::serve::Request request);
  aio::Task<void> reply();

  aio::Task<void> query_valid_paths(protocol::serve::QueryValidPaths request);
  aio::Task<void> query_path_infos(protocol::serve::QueryPathInfos request);
  aio::Task<void> query_closure(protocol::serve::QueryClosure request);
  aio::Task<void> dump(model::StorePath path);
  aio::Task<void> export_paths(protocol::serve::ExportPaths request);
  aio::Task<void> add_to_store_nar(protocol::serve::AddToStoreNar request);
  aio::Task<void> import_paths();
  aio::Task<void> build_derivation(protocol::serve::BuildDerivation request);
  aio::Task<void> build_paths(protocol::serve::BuildPaths request);

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
};

} // namespace nixbuild::server
