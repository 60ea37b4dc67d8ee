#include "own_loops.hpp"

#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

using LoopInstant = std::chrono::steady_clock::time_point;

/// What happened, and whether another process in this one's place would meet the same.
struct Trouble {
  std::string text;
  bool of_the_host = false;
};

Trouble trouble_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    // A full disk and a database that somebody else holds are there for the next one, too.
    return {fmt::format("{} [{}]", error.what(), error.code()), error.reaction() == Reaction::Busy};
  } catch (const std::exception& error) {
    return {error.what(), false};
  } catch (...) {
    return {"something that is no error was thrown", false};
  }
}

} // namespace

struct OwnLoops::Loop {
  std::string name;
  std::chrono::milliseconds late_after{0};
  Turn turn;
  LoopInstant good; ///< end of the last good turn; the others, too, under the state's lock
  std::uint64_t turns = 0;
  std::uint64_t failures = 0;
  std::uint64_t failed_again = 0;
  std::string last_error;
};

struct OwnLoops::State {
  State(asio::any_io_executor e, Log& l, Settings s, GiveUp g)
      : executor(std::move(e)), log(l), settings(s), give_up(std::move(g)), tasks(executor, l) {}

  asio::any_io_executor executor;
  Log& log;
  Settings settings;
  GiveUp give_up;
  aio::TaskGroup tasks;
  std::atomic<bool> stopping{false};
  std::atomic<bool> given_up{false};
  mutable std::mutex mutex;
  std::vector<std::shared_ptr<Loop>> loops;

  void went_well(Loop& loop) {
    std::uint64_t before = 0;
    {
      const std::lock_guard lock(mutex);
      before = std::exchange(loop.failed_again, 0);
      loop.good = std::chrono::steady_clock::now();
      ++loop.turns;
    }
    if (before > 0) {
      log.info(fmt::format("{}: goes on after {} failures", loop.name, before));
    }
  }

  /// Returns how long to wait before the next turn.
  std::chrono::milliseconds failed(Loop& loop, const std::exception_ptr& failure) {
    const auto trouble = trouble_of(failure);
    std::uint64_t again = 0;
    std::chrono::milliseconds without{0};
    bool new_words = false;
    {
      const std::lock_guard lock(mutex);
      ++loop.failures;
      again = ++loop.failed_again;
      new_words = loop.last_error != trouble.text;
      loop.last_error = trouble.text;
      without = std::chrono::duration_cast<std::chrono::milliseconds>(
          std::chrono::steady_clock::now() - loop.good);
    }
    // The same once more is said at the 1st, 2nd, 4th, 8th … time only.
    if (new_words || std::has_single_bit(again)) {
      log.error(fmt::format("{}: failed {}: {}",
                            loop.name,
                            again == 1 ? "once" : fmt::format("{} times in a row", again),
                            trouble.text));
    }
    if (settings.patience.count() > 0 && !trouble.of_the_host && without >= settings.patience &&
        again >= settings.most_failures && !given_up.exchange(true)) {
      give_up(fmt::format("{} has failed {} times in a row, for {} seconds: {}",
                          loop.name,
                          again,
                          without.count() / 1000,
                          trouble.text));
    }
    const auto doublings = std::min<std::uint64_t>(again - 1, 16);
    return std::min(settings.first_pause * (1U << doublings), settings.longest_pause);
  }

  static aio::Task<void> keep(std::shared_ptr<State> state, std::shared_ptr<Loop> loop) {
    constexpr auto await = asio::as_tuple(asio::use_awaitable);
    asio::steady_timer timer(co_await asio::this_coro::executor);
    while (!state->stopping) {
      std::exception_ptr failure;
      bool more = true;
      try {
        auto turn = loop->turn();
        more = co_await std::move(turn);
      } catch (...) {
        failure = std::current_exception();
      }
      if (state->stopping) {
        co_return;
      }
      if (!failure) {
        state->went_well(*loop);
        if (!more) {
          co_return;
        }
        continue;
      }
      timer.expires_after(state->failed(*loop, failure));
      [[maybe_unused]] const auto [stopped] = co_await timer.async_wait(await);
    }
  }
};

OwnLoops::OwnLoops(asio::any_io_executor executor, Log& log, Settings settings, GiveUp give_up)
    : state_(std::make_shared<State>(std::move(executor), log, settings, std::move(give_up))) {}

OwnLoops::~OwnLoops() {
  stop();
}

void OwnLoops::run(std::string name, std::chrono::milliseconds late_after, Turn turn) {
  run(std::move(name), late_after, std::move(turn), asio::make_strand(state_->executor));
}

void OwnLoops::run(std::string name,
                   std::chrono::milliseconds late_after,
                   Turn turn,
                   asio::any_io_executor executor) {
  auto loop = std::make_shared<Loop>();
  loop->name = std::move(name);
  loop->late_after = late_after;
  loop->turn = std::move(turn);
  loop->good = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(state_->mutex);
    state_->loops.push_back(loop);
  }
  auto task = State::keep(state_, loop);
  state_->tasks.spawn(loop->name, std::move(task), std::move(executor));
}

void OwnLoops::stop() {
  if (!state_->stopping.exchange(true)) {
    state_->tasks.cancel();
  }
}

std::size_t OwnLoops::running() const {
  return state_->tasks.running();
}

std::vector<LoopReport> OwnLoops::report() const {
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(state_->mutex);
  std::vector<LoopReport> reports;
  for (const auto& loop : state_->loops) {
    LoopReport report;
    report.name = loop->name;
    report.age = std::chrono::duration_cast<std::chrono::milliseconds>(now - loop->good);
    report.late = loop->late_after.count() > 0 && report.age > loop->late_after;
    report.turns = loop->turns;
    report.failures = loop->failures;
    report.failed_again = loop->failed_again;
    report.last_error = loop->last_error;
    reports.push_back(std::move(report));
  }
  return reports;
}

bool all_well(const std::vector<LoopReport>& loops) noexcept {
  return std::all_of(loops.begin(), loops.end(), [](const auto& loop) { return loop.well(); });
}

std::string health_text(const std::vector<LoopReport>& loops) {
  std::string text = all_well(loops) ? "ok\n" : "failing\n";
  for (const auto& loop : loops) {
    const auto seconds = static_cast<double>(loop.age.count()) / 1000;
    text += fmt::format("{} {:.1f} s ago", loop.name, seconds);
    if (loop.failed_again > 0) {
      text += fmt::format(", failed {} times since", loop.failed_again);
    } else if (loop.late) {
      text += ", late";
    }
    text += "\n";
  }
  return text;
}

} // namespace nixbuild::server
