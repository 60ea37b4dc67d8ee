#include "build_watch.hpp"
#include "export_order.hpp"
#include "serve_state.hpp"
#include "session_times.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/export_stream.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

namespace nixbuild::server {

namespace serve = protocol::serve;

namespace {

constexpr std::size_t kReadBuffer = 256 * kKiB;

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
      buffer_(kReadBuffer) {
  if (caller_.times == nullptr) {
    caller_.times = std::make_shared<SessionTimes>(parts.clock);
  }
}

aio::Task<bool> ServeState::fill(std::chrono::milliseconds patience) {
  const std::size_t count = co_await in_->read_some(buffer_, patience);
  if (count > 0) {
    reader_.feed(ByteView(buffer_).first(count));
  }
  co_return count > 0;
}

aio::Task<void> ServeState::reply() {
  if (reply_.empty()) {
    co_return;
  }
  co_await out_->write_all(bytes_of(reply_), limits_.stalled);
  reply_.clear();
}

aio::Task<bool> ServeState::greet() {
  const Deadline deadline(std::min(limits_.greeting, limits_.stalled));
  while (!reader_.magic_received()) {
    if (!co_await fill(deadline.left())) {
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
      caller_.times->greeted();
      co_return true;
    }
    if (!co_await fill(deadline.left())) {
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
  std::optional<serve::Request> next;
  for (;;) {
    if (!next) {
      next = reader_.next();
    }
    if (next) {
      serve::Request request = std::move(*next);
      next.reset();
      if (!is_question(request)) {
        co_await serve(std::move(request));
        continue;
      }
      auto questions = questions_at_hand(reader_, std::move(request), next, is_question);
      co_await serve_ahead(std::move(questions));
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

aio::Task<void> ServeState::serve(serve::Request request) {
  const auto began = caller_.times->now_us();
  std::optional<Error> refusal;
  try {
    caller_.expect(serve::permission_of(request), serve::name_of(request));
  } catch (const Error& error) {
    refusal = error;
  }
  if (refusal) {
    co_await refuse(request, std::move(*refusal));
    co_return;
  }
  const bool upload = serve::permission_of(request) == protocol::Permission::StoreWrite;
  co_await perform(std::move(request));
  if (upload) {
    caller_.times->uploaded(began);
  }
}

aio::Task<void> ServeState::refuse(serve::Request& request, Error refusal) {
  if (const auto* added = std::get_if<serve::AddToStoreNar>(&request)) {
    co_await refuse_path(*added, refusal.what());
  } else if (std::holds_alternative<serve::BuildPaths>(request)) {
    serve::write_build_paths_reply(reply_, model::BuildStatus::MiscFailure, refusal.what());
  } else if (std::holds_alternative<serve::BuildDerivation>(request)) {
    model::BuildResult result;
    result.error = refusal.what();
    serve::write_build_result(reply_, parts_.store.dir(), version_, result, {});
  } else {
    throw Error(std::move(refusal));
  }
  parts_.log.info(refusal.what());
  co_await reply();
}

aio::Task<void> ServeState::perform(serve::Request request) {
  if (auto* infos = std::get_if<serve::QueryPathInfos>(&request)) {
    co_await query_many_infos(std::move(*infos));
  } else if (auto* dumped = std::get_if<serve::DumpStorePath>(&request)) {
    co_await dump(std::move(dumped->path));
  } else if (std::holds_alternative<serve::ImportPaths>(request)) {
    co_await import_paths();
  } else if (auto* exported = std::get_if<serve::ExportPaths>(&request)) {
    co_await export_paths(std::move(*exported));
  } else if (auto* paths = std::get_if<serve::BuildPaths>(&request)) {
    co_await build_paths(std::move(*paths));
  } else if (auto* build = std::get_if<serve::BuildDerivation>(&request)) {
    co_await build_derivation(std::move(*build));
  } else if (auto* added = std::get_if<serve::AddToStoreNar>(&request)) {
    co_await add_to_store_nar(std::move(*added));
  }
}

aio::Task<void> ServeState::dump(model::StorePath path) {
  lease_.add(path);
  auto work = [this, &path] {
    return parts_.store.open_export(account_, path);
  };
  auto source = co_await parts_.pool.run(std::move(work));
  const auto began = caller_.times->now_us();
  co_await send_archive(source, *out_, reply_, limits_.stalled);
  co_await reply();
  caller_.times->sent(path, began);
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
    const auto began = caller_.times->now_us();
    protocol::write_export_nar_marker(reply_);
    co_await send_archive(source, *out_, reply_, limits_.stalled);
    protocol::ExportTrailer trailer{path, source.info().references, source.info().deriver};
    protocol::write_export_trailer(reply_, parts_.store.dir(), trailer);
    co_await reply();
    caller_.times->sent(path, began);
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
  const auto state = std::make_shared<ServeState>(
      parts, limits, std::move(caller), std::move(in), std::move(out), std::move(err));
  std::optional<std::string> failure;
  try {
    co_await state->converse();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  co_await note_sent(parts, state->caller());
  if (!failure) {
    co_return 0;
  }
  parts.log.info(*failure);
  co_await state->complain(*failure);
  co_return 1;
}

} // namespace nixbuild::server
