#include "session_times.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace nixbuild::server {

namespace worker = protocol::worker;

namespace {

constexpr std::size_t kWorkerReadBuffer = 256 * kKiB;
constexpr std::string_view kDaemonVersion = "nixbuild " NIXBUILD_VERSION;

/// After these the client's stream stands nobody knows where, or there is no client.
bool ends_session(const Error& error) {
  return error.reaction() == Reaction::Disconnected || error.reaction() == Reaction::Cancelled ||
         error.code().starts_with("stream.") || error.code().starts_with("framed.") ||
         error.code() == "worker.pulled";
}

/// How the client's Nix names contents that refer to themselves: 1.35 to 1.38 are spoken longest by
/// those that leave offsets out. Source: protocol facts T2.
model::SelfReferences self_references_of(const worker::Peer& peer) {
  const bool plain = peer.version >= protocol::Version(1, 35) &&
                     !peer.features.contains(std::string(worker::kRealisationWithPath));
  return plain ? model::SelfReferences::Plain : model::SelfReferences::WithOffsets;
}

} // namespace

WorkerState::WorkerState(const SessionParts& parts,
                         SessionLimits limits,
                         SessionCaller caller,
                         std::shared_ptr<aio::ByteStream> in,
                         std::shared_ptr<aio::ByteStream> out)
    : parts_(parts), limits_(limits), caller_(std::move(caller)), account_(caller_.account),
      in_(std::move(in)), out_(std::make_shared<SharedWriter>(std::move(out), limits.stalled)),
      reader_(parts.store.dir(), limits.wire), lease_(parts.store.lease(account_)),
      buffer_(kWorkerReadBuffer), refusals_(parts.log) {
  if (caller_.times == nullptr) {
    caller_.times = std::make_shared<SessionTimes>(parts.clock);
  }
}

aio::Task<bool> WorkerState::fill(std::chrono::milliseconds patience) {
  const std::size_t count = co_await in_->read_some(buffer_, patience);
  if (count > 0) {
    reader_.feed(ByteView(buffer_).first(count));
  }
  co_return count > 0;
}

aio::Task<void> WorkerState::send() {
  std::string gathered = std::exchange(reply_, std::string());
  if (!gathered.empty()) {
    co_await out_->write(std::move(gathered));
  }
}

void WorkerState::say(const worker::LogMessage& message) {
  worker::write_log(reply_, peer_, message);
}

void WorkerState::conclude(const worker::Reply& reply) {
  say(worker::Last{});
  worker::write_reply(reply_, parts_.store.dir(), peer_, reply);
}

aio::Task<bool> WorkerState::greet() {
  const Deadline deadline(std::min(limits_.greeting, limits_.stalled));
  for (;;) {
    while (const auto step = reader_.greeting()) {
      switch (*step) {
      case worker::GreetingStep::Hello:
        worker::write_hello(reply_);
        break;
      case worker::GreetingStep::FeatureList:
        worker::write_features(reply_);
        break;
      case worker::GreetingStep::Welcome:
        peer_ = *reader_.peer();
        caller_.self_references = self_references_of(peer_);
        // Whoever may use an account is trusted with all of it; other accounts are out of reach.
        worker::write_welcome(reply_,
                              peer_,
                              kDaemonVersion,
                              caller_.inside == nullptr ? worker::Trust::Trusted
                                                        : worker::Trust::NotTrusted);
        say(worker::Last{});
        break;
      }
    }
    co_await send();
    if (reader_.peer()) {
      caller_.times->greeted();
      co_return true;
    }
    if (!co_await fill(deadline.left())) {
      co_return false;
    }
  }
}

aio::Task<void> WorkerState::converse() {
  if (!co_await greet()) {
    if (!reader_.at_boundary()) {
      throw Error(Reaction::Disconnected, "worker.truncated", "the client left during its hello");
    }
    co_return;
  }
  std::optional<worker::Request> next;
  for (;;) {
    if (!next) {
      next = reader_.next();
    }
    if (next) {
      worker::Request request = std::move(*next);
      next.reset();
      if (!is_question(request)) {
        co_await serve(std::move(request));
        continue;
      }
      auto questions = questions_at_hand(reader_, std::move(request), next, is_question);
      if (questions.size() == 1) {
        co_await serve(std::move(questions.front()));
      } else {
        co_await serve_ahead(std::move(questions));
      }
      continue;
    }
    const bool between = reader_.at_boundary();
    if (!co_await fill(between ? limits_.idle : limits_.stalled)) {
      if (!between) {
        throw Error(Reaction::Disconnected, "worker.truncated", "the client left inside a request");
      }
      co_return;
    }
  }
}

aio::Task<void> WorkerState::serve(worker::Request request) {
  const auto payload = worker::payload_of(request, peer_);
  frames_.reset();
  if (payload == worker::Payload::Framed) {
    frames_.emplace(reader_, *in_, limits_.stalled);
  }
  const auto began = caller_.times->now_us();
  std::optional<Error> failure;
  try {
    caller_.expect(worker::permission_of(request), worker::name_of(request));
    if (is_question(request)) {
      const auto reply = co_await find_answer(request);
      conclude(reply);
    } else if (caller_.inside == nullptr || !settle_inside(request)) {
      auto dispatch = [this]<class T>(T& wanted) -> aio::Task<void> {
        if constexpr (requires { perform(wanted); }) {
          return perform(wanted);
        } else {
          throw Error(Reaction::Internal, "worker.question", "this is a question");
        }
      };
      auto task = std::visit(dispatch, request);
      co_await std::move(task);
    }
  } catch (const Error& error) {
    if (ends_session(error)) {
      throw;
    }
    failure = error;
  }
  if (failure) {
    // What was gathered of a reply is void.
    reply_.clear();
    say_failure(request, *failure);
    co_await send();
    if (payload == worker::Payload::Nar) {
      throw Error(Reaction::Disconnected,
                  "worker.archive-lost",
                  "an archive without a frame cannot be skipped after a failure");
    }
  }
  if (frames_ && !frames_->finished()) {
    co_await frames_->drain();
  }
  frames_.reset();
  note_time(request, began);
  co_await send();
}

void WorkerState::note_time(const worker::Request& request, std::int64_t begin_us) {
  if (const auto* dumped = std::get_if<worker::NarFromPath>(&request)) {
    caller_.times->sent(dumped->path, begin_us);
  } else if (worker::permission_of(request) == protocol::Permission::StoreRead) {
    caller_.times->asked(begin_us);
  } else if (worker::permission_of(request) == protocol::Permission::StoreWrite) {
    caller_.times->uploaded(begin_us);
  }
}

void WorkerState::refuse(const worker::Request& request, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    if (ends_session(error)) {
      throw;
    }
    say_failure(request, error);
  }
}

void WorkerState::say_failure(const worker::Request& request, const Error& failure) {
  refusals_.note(worker::name_of(request), failure);
  say(worker::Failure{
      .level = worker::Level::Error, .message = failure.message(), .traces = {}, .exit_status = 1});
}

aio::Task<bool> WorkerState::valid(model::StorePath path) {
  lease_.add(path);
  auto look = [this, &path] {
    return is_valid(parts_.store, account_, path);
  };
  co_return co_await parts_.pool.run(std::move(look));
}

void WorkerState::fail_invalid(const model::StorePath& path) const {
  throw Error(Reaction::NotFound,
              "worker.invalid-path",
              fmt::format("path '{}' is not valid", parts_.store.dir().print(path)));
}

aio::Task<void> WorkerState::say_last_words(std::string message) {
  if (!reader_.peer()) {
    co_return;
  }
  std::string words;
  worker::write_log(words,
                    peer_,
                    worker::Failure{.level = worker::Level::Error,
                                    .message = std::move(message),
                                    .traces = {},
                                    .exit_status = 1});
  try {
    co_await out_->stream().write_all(bytes_of(words), std::chrono::seconds(2));
  } catch (const Error&) {
    // The client is gone or deaf: there is nobody left to tell.
  }
}

aio::Task<int> run_worker_session(const SessionParts& parts,
                                  SessionLimits limits,
                                  SessionCaller caller,
                                  std::shared_ptr<aio::ByteStream> in,
                                  std::shared_ptr<aio::ByteStream> out,
                                  std::shared_ptr<aio::ByteStream> err) {
  const auto state = std::make_shared<WorkerState>(
      parts, limits, std::move(caller), std::move(in), std::move(out));
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
  co_await state->say_last_words(*failure);
  const std::string line = "error: " + *failure + "\n";
  try {
    if (err) {
      co_await err->write_all(bytes_of(line), std::chrono::seconds(2));
    }
  } catch (const Error&) {
    // As above.
  }
  co_return 1;
}

} // namespace nixbuild::server
