#include "export_order.hpp"
#include "serve_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/export_stream.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>
#include <variant>

namespace nixbuild::server {

namespace serve = protocol::serve;

namespace {

constexpr std::size_t kReadBuffer = 256 * kKiB;
constexpr std::size_t kInfosAtOnce = 2000;
/// Questions about so few paths are answered on the session's own strand: the database answers in
/// microseconds, and a visit to the blocking pool costs more.
constexpr std::size_t kAnswerAtOnce = 16;

/// How the client's Nix names contents that refer to themselves, by the protocol's version: 2.7 was
/// spoken longest by those that leave offsets out. Source: protocol facts T2.
model::SelfReferences self_references_of(protocol::Version version) {
  return version == protocol::Version(2, 7) ? model::SelfReferences::Plain
                                            : model::SelfReferences::WithOffsets;
}

} // namespace

ServeState::ServeState(const SessionParts& parts,
                       SessionLimits limits,
                       SessionCaller caller,
                       std::shared_ptr<aio::ByteStream> in,
                       std::shared_ptr<aio::ByteStream> out,
                       std::shared_ptr<aio::ByteStream> err)
    : parts_(parts), limits_(limits), caller_(std::move(caller)), account_(caller_.account),
      in_(std::move(in)), out_(std::move(out)),
      err_(std::make_shared<SharedWriter>(std::move(err), limits.deaf)),
      reader_(parts.store.dir(), limits.wire), lease_(parts.store.lease(account_)),
      buffer_(kReadBuffer) {}

aio::Task<bool> ServeState::fill(std::chrono::milliseconds patience) {
  const std::size_t count = co_await in_->read_some(buffer_, patience);
  if (count > 0) {
    reader_.feed(ByteView(buffer_).first(count));
  }
  co_return count > 0;
}

aio::Task<void> ServeState::reply() {
  co_await out_->write_all(bytes_of(reply_), limits_.stalled);
  reply_.clear();
}

aio::Task<bool> ServeState::greet() {
  while (!reader_.magic_received()) {
    if (!co_await fill(limits_.stalled)) {
      co_return false;
    }
  }
  // Before the client's version has come: older clients wait for ours.
  serve::write_hello(reply_);
  co_await reply();
  for (;;) {
    if (const auto version = reader_.version()) {
      version_ = *version;
      caller_.self_references = self_references_of(version_);
      co_return true;
    }
    if (!co_await fill(limits_.stalled)) {
      co_return false;
    }
  }
}

aio::Task<void> ServeState::converse() {
  if (!co_await greet()) {
    if (!reader_.at_boundary()) {
      throw Error(Reaction::Disconnected, "serve.truncated", "the client left during its hello");
    }
    co_return;
  }
  for (;;) {
    std::optional<serve::Request> request = reader_.next();
    if (request) {
      co_await answer(std::move(*request));
      continue;
    }
    const bool between = reader_.at_boundary();
    if (!co_await fill(between ? limits_.idle : limits_.stalled)) {
      if (!between) {
        throw Error(Reaction::Disconnected, "serve.truncated", "the client left inside a request");
      }
      co_return;
    }
  }
}

aio::Task<void> ServeState::answer(serve::Request request) {
  caller_.expect(serve::permission_of(request), serve::name_of(request));
  if (auto* valid = std::get_if<serve::QueryValidPaths>(&request)) {
    co_await query_valid_paths(std::move(*valid));
  } else if (auto* infos = std::get_if<serve::QueryPathInfos>(&request)) {
    co_await query_path_infos(std::move(*infos));
  } else if (auto* dumped = std::get_if<serve::DumpStorePath>(&request)) {
    co_await dump(std::move(dumped->path));
  } else if (std::holds_alternative<serve::ImportPaths>(request)) {
    co_await import_paths();
  } else if (auto* exported = std::get_if<serve::ExportPaths>(&request)) {
    co_await export_paths(std::move(*exported));
  } else if (auto* paths = std::get_if<serve::BuildPaths>(&request)) {
    co_await build_paths(std::move(*paths));
  } else if (auto* closure = std::get_if<serve::QueryClosure>(&request)) {
    co_await query_closure(std::move(*closure));
  } else if (auto* build = std::get_if<serve::BuildDerivation>(&request)) {
    co_await build_derivation(std::move(*build));
  } else if (auto* added = std::get_if<serve::AddToStoreNar>(&request)) {
    co_await add_to_store_nar(std::move(*added));
  }
}

aio::Task<void> ServeState::query_valid_paths(serve::QueryValidPaths request) {
  // Leased before they are looked up, so that nothing told to be valid can vanish between.
  lease_.add(request.paths);
  auto work = [this, &request] {
    const auto valid = parts_.store.db().valid_paths(account_, request.paths);
    serve::write_paths(reply_, parts_.store.dir(), valid);
  };
  if (request.paths.size() <= kAnswerAtOnce) {
    work();
  } else {
    co_await parts_.pool.run(std::move(work));
  }
  co_await reply();
}

aio::Task<void> ServeState::query_path_infos(serve::QueryPathInfos request) {
  lease_.add(request.paths);
  for (std::size_t begin = 0; begin < request.paths.size(); begin += kInfosAtOnce) {
    const std::size_t count = std::min(kInfosAtOnce, request.paths.size() - begin);
    auto work = [this, &request, begin, count] {
      auto visit = [this](const model::PathInfo& info) {
        serve::write_path_info(
            reply_, parts_.store.dir(), version_, serve::PathInfoReply{info, info.nar_size});
      };
      const auto some = std::span<const model::StorePath>(request.paths).subspan(begin, count);
      parts_.store.db().path_infos(account_, some, visit);
    };
    if (count <= kAnswerAtOnce) {
      work();
    } else {
      co_await parts_.pool.run(std::move(work));
    }
    if (reply_.size() >= kGather) {
      co_await reply();
    }
  }
  serve::write_end_of_infos(reply_);
  co_await reply();
}

aio::Task<void> ServeState::query_closure(serve::QueryClosure request) {
  auto work = [this, &request] {
    const auto closure = parts_.store.db().closure(account_, request.paths);
    lease_.add(closure);
    serve::write_paths(reply_, parts_.store.dir(), closure);
  };
  co_await parts_.pool.run(std::move(work));
  co_await reply();
}

aio::Task<void> ServeState::dump(model::StorePath path) {
  lease_.add(path);
  auto work = [this, &path] {
    return parts_.store.open_export(account_, path);
  };
  auto source = co_await parts_.pool.run(std::move(work));
  co_await send_archive(source, *out_, reply_, limits_.stalled);
  co_await reply();
}

aio::Task<void> ServeState::export_paths(serve::ExportPaths request) {
  lease_.add(request.paths);
  auto sort = [this, &request] {
    return references_first(
        parts_.store.db(), parts_.store.dir(), account_, std::move(request.paths));
  };
  const auto paths = co_await parts_.pool.run(std::move(sort));
  for (const auto& path : paths) {
    auto work = [this, &path] {
      return parts_.store.open_export(account_, path);
    };
    auto source = co_await parts_.pool.run(std::move(work));
    protocol::write_export_nar_marker(reply_);
    co_await send_archive(source, *out_, reply_, limits_.stalled);
    protocol::ExportTrailer trailer{path, source.info().references, source.info().deriver};
    protocol::write_export_trailer(reply_, parts_.store.dir(), trailer);
    co_await reply();
  }
  protocol::write_export_end(reply_);
  co_await reply();
}

aio::Task<void> ServeState::complain(std::string message) {
  const std::string line = "error: " + message + "\n";
  try {
    co_await err_->stream().write_all(bytes_of(line), std::chrono::seconds(2));
  } catch (const Error&) {
    // The client is gone or deaf: there is nobody left to tell.
  }
}

aio::Task<int> run_serve_session(const SessionParts& parts,
                                 SessionLimits limits,
                                 SessionCaller caller,
                                 std::shared_ptr<aio::ByteStream> in,
                                 std::shared_ptr<aio::ByteStream> out,
                                 std::shared_ptr<aio::ByteStream> err) {
  ServeState state(parts, limits, std::move(caller), std::move(in), std::move(out), std::move(err));
  std::string failure;
  try {
    co_await state.converse();
    co_return 0;
  } catch (const std::exception& error) {
    failure = error.what();
  }
  parts.log.info(failure);
  co_await state.complain(std::move(failure));
  co_return 1;
}

} // namespace nixbuild::server
