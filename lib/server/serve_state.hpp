#pragma once

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
             store::AccountId account,
             bool write_allowed,
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
  aio::Task<void> send_nar(store::Export& source);
  aio::Task<void> export_paths(protocol::serve::ExportPaths request);
  aio::Task<void> add_to_store_nar(protocol::serve::AddToStoreNar request);
  /// An import of what was announced; nothing when the path is valid already. Blocking.
  std::optional<store::Import> begin_add(const model::PathInfo& info);
  aio::Task<void> receive_nar(store::Import import, std::uint64_t left, std::string path);
  /// Up to `left` raw bytes of the request, at least one. Throws when the client leaves.
  aio::Task<std::size_t> take_raw(Bytes& buffer, std::uint64_t left, std::string path);
  aio::Task<void> import_paths();
  aio::Task<void> build_derivation(protocol::serve::BuildDerivation request);
  aio::Task<void> build_paths(protocol::serve::BuildPaths request);
  /// Ensures a path, or builds a derivation that lies in the store after what it needs.
  aio::Task<model::BuildResult>
  build_target(model::StorePath path, model::BuildOptions options, unsigned depth);
  /// Follows the build's log to the client's standard error until the build ends.
  aio::Task<model::BuildResult> follow(build::Attachment attachment);
  aio::Task<void> follow_log(build::Attachment& attachment, const bool& client_gone);

  const SessionParts& parts_;
  SessionLimits limits_;
  store::AccountId account_;
  bool write_allowed_;
  std::shared_ptr<aio::ByteStream> in_;
  std::shared_ptr<aio::ByteStream> out_;
  std::shared_ptr<aio::ByteStream> err_;
  protocol::serve::RequestReader reader_;
  protocol::Version version_ = protocol::serve::kServerVersion;
  store::Lease lease_;
  Bytes buffer_;
  std::string reply_;
};

} // namespace nixbuild::server
