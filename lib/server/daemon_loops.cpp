#include "daemon_state.hpp"
#include "machine_health.hpp"
#include "retention.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/recovery.hpp>

#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <thread>
#include <utility>
#include <vector>

/// What a daemon does by itself, and how it ends.
namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

/// A loop that has done nothing for so many of its turns is late, but not before ten seconds.
constexpr int kLateTurns = 12;
constexpr std::chrono::seconds kLateAtLeast{10};

} // namespace

aio::Task<void> Daemon::State::pause(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  timer.expires_after(time);
  co_await timer.async_wait(asio::use_awaitable);
}

void Daemon::State::begin_loops() {
  const auto& pace = settings.pace;
  const auto late = [](std::chrono::milliseconds turn) {
    return std::max<std::chrono::milliseconds>(turn * kLateTurns, kLateAtLeast);
  };
  loops.run(
      "accept", {}, [this] { return accept_session(); }, accept_strand);
  loops.run("tick", late(pace.tick), [this] { return tick(); });
  loops.run("sync", late(pace.sync), [this] { return sync(); });
  loops.run("machine", late(pace.machine), [this] { return look_at_machine(); });
  loops.run("usage", late(pace.usage), [this] { return count_cpu_time(); });
  loops.run("forget", {}, [this] { return forget_what_is_old(); });
  if (http) {
    loops.run(
        "http", {}, [this] { return http->take_one(); }, http->strand());
  }
}

/// Ends what nobody needs any more, in the end this daemon.
aio::Task<bool> Daemon::State::tick() {
  co_await pause(settings.pace.tick);
  kept.tidy();
  const auto now = clock.monotonic();
  if (session_tasks.running() > 0 || build_tasks.running() > 0 || kept.count() > 0) {
    last_work = now;
    unsynced = true;
  } else if (settings.autostarted && now - last_work.load() >= settings.config.idle_exit) {
    log.info("nothing to do: ending");
    begin_ending(false);
    co_return false;
  }
  co_return true;
}

/// What was not written to the disk by a turn that failed is written by the next one.
aio::Task<bool> Daemon::State::sync() {
  co_await pause(settings.pace.sync);
  const bool busy = session_tasks.running() + build_tasks.running() > 0;
  const bool wanted = unsynced.exchange(busy) || busy;
  const bool recent = clock.monotonic() - last_work.load() < 2 * settings.pace.sync;
  if (!wanted && !recent) {
    co_return true;
  }
  auto work = [this] {
    sync_state(settings.state_dir);
  };
  try {
    co_await own_pool.run(std::move(work));
  } catch (...) {
    unsynced = true;
    throw;
  }
  co_return true;
}

aio::Task<bool> Daemon::State::look_at_machine() {
  co_await pause(settings.pace.machine);
  if (build_tasks.running() > 0) {
    auto look = [this] {
      leases.set_health("local", health_of_machine(settings.state_dir));
    };
    co_await own_pool.run(std::move(look));
  }
  co_return true;
}

aio::Task<bool> Daemon::State::count_cpu_time() {
  co_await pause(settings.pace.usage);
  if (quotas.month_is_over()) {
    auto count = [this] {
      quotas.count_cpu_time();
    };
    co_await own_pool.run(std::move(count));
  }
  co_return true;
}

aio::Task<bool> Daemon::State::forget_what_is_old() {
  const Retention retention{settings.config.keep_builds, settings.config.keep_logs};
  if (retention == Retention{}) {
    co_return false;
  }
  auto forget = [this, retention] {
    return forget_old(*db, *logs, retention, clock.wall());
  };
  const auto forgotten = co_await own_pool.run(std::move(forget));
  if (forgotten.builds + forgotten.logs > 0) {
    log.info(fmt::format(
        "forgot {} builds and {} logs that were old", forgotten.builds, forgotten.logs));
  }
  co_await pause(settings.pace.forget);
  co_return true;
}

/// A process that begins anew may do better: the service manager or the next client starts it.
void Daemon::State::give_up(const std::string& why) {
  log.error("this process ends, so that another one takes its place: " + why);
  exit_status = exit_code_of(Reaction::Internal);
  begin_ending(false);
}

/// From any thread, more than once. What waits is left to the next daemon, and what runs, too,
/// once it has been waited for.
void Daemon::State::begin_ending(bool wait_for_builds) {
  if (!wait_for_builds) {
    hurry = true;
  }
  if (!ending_begun.exchange(true)) {
    ending.run("end", {}, [this] { return end(); });
  }
}

std::size_t Daemon::State::tasks_running() const {
  return session_tasks.running() + build_tasks.running() + loops.running() +
         (http ? http->running() : 0);
}

std::size_t Daemon::State::blocked() const noexcept {
  return pool.busy() + door_pool.busy() + long_work.pool.busy() + own_pool.busy();
}

void Daemon::State::join_pools() {
  pool.join();
  door_pool.join();
  long_work.pool.join();
  own_pool.join();
}

/// Lets what runs end, for as long as the configuration says, and then everybody leave. Begun again
/// from its beginning should it fail.
aio::Task<bool> Daemon::State::end() {
  leases.drain(settings.config.stop_wait.count() > 0);
  const auto begin = std::chrono::steady_clock::now();
  if (const auto running = leases.counts().running; running > 0 && !hurry) {
    log.info(fmt::format("{} builds run; waiting for them at most {} seconds",
                         running,
                         settings.config.stop_wait.count()));
  }
  while (!hurry && leases.counts().running > 0 &&
         std::chrono::steady_clock::now() - begin < settings.config.stop_wait) {
    co_await pause(std::chrono::milliseconds(100));
  }
  hurry = true;
  stopping = true;
  builds.leave_running();
  if (http) {
    http->stop();
  }
  loops.stop();
  asio::post(accept_strand, [this] {
    boost::system::error_code ignored;
    acceptor.close(ignored);
  });
  const auto told = std::chrono::steady_clock::now();
  auto free = told; // when nothing blocked any more
  for (int round = 0; tasks_running() + blocked() > 0; ++round) {
    // More than once: one may have begun in the moment of the first time.
    if (round % 50 == 0) {
      session_tasks.cancel();
      build_tasks.cancel();
    }
    co_await pause(std::chrono::milliseconds(20));
    const auto now = std::chrono::steady_clock::now();
    if (blocked() > 0) {
      free = now;
    }
    if (now - free >= settings.pace.stop_patience || now - told >= settings.pace.blocked_patience) {
      log.warning(fmt::format("{} tasks have not come to their end", tasks_running()));
      break;
    }
  }
  io.stop();
  co_return false;
}

/// An exception that nobody has caught is a fault, but no reason to end all sessions.
void Daemon::State::run_io() {
  for (;;) {
    try {
      io.run();
      return;
    } catch (const std::exception& error) {
      log.error(fmt::format("the event loop: {}", error.what()));
    } catch (...) {
      log.error("the event loop: something that is no error was thrown");
    }
  }
}

/// After the loop's threads have ended: what blocked comes to its end, and so does what waited for
/// it, as far as that takes no time.
void Daemon::State::finish() {
  stuck = blocked() > 0;
  if (!stuck) {
    join_pools();
    io.restart();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    try {
      while (tasks_running() > 0 && io.run_one_until(until) > 0) {
      }
    } catch (const std::exception& error) {
      log.error(fmt::format("the event loop: {}", error.what()));
    }
  }
  try {
    sync_state(settings.state_dir);
  } catch (const std::exception& error) {
    log.error(error.what());
  }
}

int Daemon::run() {
  auto& state = *state_;
  state.begin_loops();
  if (state.http) {
    state.log.info("HTTP on " + state.http->address());
  }
  asio::signal_set signals(state.io, SIGTERM, SIGINT);
  signals.async_wait([&](boost::system::error_code error, int number) {
    if (!error) {
      state.log.info(fmt::format("signal {}: ending", number));
      state.begin_ending(true);
      signals.async_wait(
          [&state](boost::system::error_code again, int) { state.hurry = state.hurry || !again; });
    }
  });
  if (state.settings.ready) {
    const char byte = '\n';
    [[maybe_unused]] const auto ignored = ::write(state.settings.ready.get(), &byte, 1);
    state.settings.ready.reset();
  }
  state.log.info(fmt::format("serving {} with {} cpus and {} MiB for builds",
                             state.settings.state_dir,
                             state.share.cpus,
                             state.share.memory_bytes >> 20));
  const unsigned threads = state.settings.threads != 0
                               ? state.settings.threads
                               : std::max(2U, std::thread::hardware_concurrency());
  std::vector<std::jthread> others;
  for (unsigned i = 1; i < threads; ++i) {
    others.emplace_back([&state] { state.run_io(); });
  }
  state.run_io();
  others.clear();
  state.finish();
  return state.exit_status;
}

bool Daemon::stuck() const noexcept {
  return state_->stuck;
}

void Daemon::stop() {
  state_->begin_ending(false);
}

std::vector<LoopReport> Daemon::loops() const {
  return state_->loops.report();
}

} // namespace nixbuild::server
