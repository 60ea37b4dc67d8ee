#include "build_watch.hpp"

#include "session_times.hpp"
#include "told_log.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <fmt/format.h>

#include <optional>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kWatchedLogPiece = 64 * kKiB;
/// How soon a silent build's follower notices that the client has left.
constexpr std::chrono::milliseconds kLookUp{400};

} // namespace

struct HangUpWatch::State {
  bool gone = false;
  bool ended = false; ///< the watcher is done; its signal must not be used any more
  asio::cancellation_signal stop;

  static aio::Task<void> watch(std::shared_ptr<State> self,
                               std::shared_ptr<aio::ByteStream> in,
                               std::shared_ptr<aio::ByteStream> muted) {
    try {
      co_await in->wait_hang_up();
      self->gone = true;
      muted->cancel();
    } catch (const std::exception&) {
      // Told to stop: the builds have ended first.
    }
    self->ended = true;
  }
};

HangUpWatch::HangUpWatch(asio::any_io_executor strand,
                         std::shared_ptr<aio::ByteStream> in,
                         std::shared_ptr<aio::ByteStream> muted)
    : state_(std::make_shared<State>()) {
  auto watcher = State::watch(state_, std::move(in), std::move(muted));
  auto keep = [state = state_](std::exception_ptr) {
  };
  asio::co_spawn(std::move(strand),
                 std::move(watcher),
                 asio::bind_cancellation_slot(state_->stop.slot(), std::move(keep)));
}

HangUpWatch::~HangUpWatch() {
  if (!state_->ended) {
    state_->stop.emit(asio::cancellation_type::terminal);
  }
}

bool HangUpWatch::gone() const noexcept {
  return state_->gone;
}

namespace {

void expect_wanted(const HangUpWatch& client, const bool& stop) {
  if (client.gone()) {
    throw Error(Reaction::Disconnected, "session.client-gone", "the client left during a build");
  }
  if (stop) {
    throw Error(Reaction::Cancelled, "session.stopped", "the build is not wanted any more");
  }
}

/// What of the log is no longer held in memory.
aio::Task<std::optional<std::string>>
stored_log(const SessionParts& parts, std::int64_t number, std::uint64_t offset) {
  auto work = [&parts, number, offset] {
    return parts.logs.read(number, offset, kWatchedLogPiece);
  };
  co_return co_await parts.pool.run(std::move(work));
}

} // namespace

aio::Task<model::BuildResult> follow_build(const SessionParts& parts,
                                           const BuildAsker& asker,
                                           build::Attachment attachment,
                                           LogListener& listener) {
  auto& feed = attachment.feed();
  LogHead head(asker.emulation_told);
  std::uint64_t offset = 0;
  for (;;) {
    expect_wanted(asker.client, asker.stop);
    auto piece = feed.read(offset);
    if (piece.missed) {
      auto stored = co_await stored_log(parts, attachment.number(), offset);
      if (!stored || stored->empty()) {
        offset = feed.size(); // lost from the store: go on with what is held
        continue;
      }
      piece.bytes = std::move(*stored);
    }
    offset += piece.bytes.size();
    if (!piece.bytes.empty()) {
      // A builder's client is shown it in a log that has a number already.
      const auto number = asker.caller.inside != nullptr ? 0 : attachment.number();
      std::string shown = head.take(number, std::move(piece.bytes));
      co_await listener.take_log(std::move(shown));
    } else if (piece.closed) {
      break;
    } else {
      co_await feed.event().wait(piece.count, kLookUp);
    }
  }
  std::string held = head.finish();
  co_await listener.take_log(std::move(held));
  auto result = co_await attachment.result();
  // While the attachment still keeps them.
  for (const auto& [name, output] : result.outputs) {
    asker.lease.add(output.path);
  }
  if (asker.caller.times != nullptr) {
    asker.caller.times->built(attachment.number(), result);
  }
  co_return result;
}

aio::Task<void> note_sent(const SessionParts& parts, const SessionCaller& caller) {
  const auto sent = caller.times->take_sent();
  if (sent.empty()) {
    co_return;
  }
  auto work = [&parts, &caller, &sent] {
    for (const auto& [build, when] : sent) {
      parts.store.db().note_sent(caller.account, build, when);
    }
  };
  try {
    co_await parts.pool.run(std::move(work));
  } catch (const std::exception& error) {
    parts.log.info(fmt::format("times of sending are not kept: {}", error.what()));
  }
}

} // namespace nixbuild::server
