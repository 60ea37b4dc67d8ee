#include "server/own_loops.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <catch2/catch.hpp>

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace own_loops_test {

using namespace nixbuild;
using server::OwnLoops;

namespace {

class KeptLog final : public Log {
public:
  void write(LogLevel level, std::string_view message) noexcept override {
    (level == LogLevel::Error ? errors : others).emplace_back(message);
  }

  std::vector<std::string> errors;
  std::vector<std::string> others;
};

/// A loop whose turns fail from `first` on, `times` times, in a way of their own.
struct Plan {
  int first = 0;
  int times = 1;
  int kind = 0;
  int turns = 0;
  int good = 0;
};

void fail_as(int kind) {
  if (kind == 0) {
    throw Error(Reaction::Internal, "test.fault", "broken");
  }
  if (kind == 1) {
    throw std::runtime_error("broken");
  }
  if (kind == 2) {
    throw 3;
  }
  throw Error(Reaction::Busy, "test.full", "the disk is full");
}

aio::Task<bool> take_turn(Plan& plan, int enough) {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  timer.expires_after(std::chrono::milliseconds(1));
  co_await timer.async_wait(boost::asio::use_awaitable);
  const int turn = plan.turns++;
  if (turn >= plan.first && turn < plan.first + plan.times) {
    fail_as(plan.kind);
  }
  co_return ++plan.good < enough;
}

/// It throws before there is a coroutine.
aio::Task<bool> no_turn(Plan& plan) {
  if (plan.turns++ < plan.times) {
    fail_as(plan.kind);
  }
  return take_turn(plan, 3);
}

OwnLoops::Settings quick() {
  OwnLoops::Settings settings;
  settings.first_pause = std::chrono::milliseconds(1);
  settings.longest_pause = std::chrono::milliseconds(2);
  settings.patience = std::chrono::milliseconds(30);
  settings.most_failures = 10;
  return settings;
}

} // namespace

TEST_CASE("own loops: whatever a turn throws, and at whichever, the next ones come",
          "[server][property][fault]") {
  for (int kind = 0; kind < 4; ++kind) {
    for (int first = 0; first < 5; ++first) {
      for (int times = 1; times < 4; ++times) {
        boost::asio::io_context io;
        KeptLog log;
        Plan plan{first, times, kind};
        std::string why;
        OwnLoops loops(io.get_executor(), log, quick(), [&](const auto& said) { why = said; });
        loops.run("one", {}, [&] { return take_turn(plan, 8); });
        io.run();
        CHECK(plan.good == 8);
        CHECK(why.empty());
        CHECK_FALSE(log.errors.empty());
        const auto report = loops.report().at(0);
        CHECK(report.turns == 8);
        CHECK(report.failures == static_cast<std::uint64_t>(times));
        CHECK(report.well());
      }
    }
  }
}

TEST_CASE("own loops: a turn that cannot even begin is no end either", "[server][fault]") {
  boost::asio::io_context io;
  KeptLog log;
  Plan plan{100, 3, 1};
  OwnLoops loops(io.get_executor(), log, quick(), nullptr);
  loops.run("one", {}, [&] { return no_turn(plan); });
  io.run();
  CHECK(plan.good == 3);
  CHECK(loops.report().at(0).failures == 3);
}

TEST_CASE("own loops: turn after turn without one that goes well ends the daemon, once",
          "[server][fault]") {
  boost::asio::io_context io;
  KeptLog log;
  Plan plan{2, 1'000'000, 0};
  std::vector<std::string> why;
  OwnLoops loops(io.get_executor(), log, quick(), [&](const auto& said) { why.push_back(said); });
  loops.run("one", {}, [&] { return take_turn(plan, 1'000'000); });
  io.run_for(std::chrono::milliseconds(400));
  REQUIRE(why.size() == 1);
  CHECK(why[0].starts_with("one has failed "));
  CHECK(why[0].ends_with("broken [test.fault]"));
  const auto report = loops.report().at(0);
  CHECK_FALSE(report.well());
  CHECK(report.failed_again > 10);
  // Said at the 1st, 2nd, 4th, 8th … time.
  CHECK(log.errors.size() < 14);
  CHECK(server::health_text(loops.report()).starts_with("failing\none "));
  loops.stop();
  io.run();
  CHECK(loops.running() == 0);
}

TEST_CASE("own loops: what the next process would meet, too, is waited for", "[server][fault]") {
  boost::asio::io_context io;
  KeptLog log;
  Plan plan{0, 1'000'000, 3};
  std::string why;
  OwnLoops loops(io.get_executor(), log, quick(), [&](const auto& said) { why = said; });
  loops.run("one", {}, [&] { return take_turn(plan, 1'000'000); });
  io.run_for(std::chrono::milliseconds(200));
  CHECK(why.empty());
  CHECK(loops.report().at(0).failed_again > 10);
  loops.stop();
  io.run();
}

TEST_CASE("own loops: one that takes its turns too slowly is late", "[server]") {
  boost::asio::io_context io;
  KeptLog log;
  Plan plan{100, 0, 0};
  OwnLoops loops(io.get_executor(), log, quick(), nullptr);
  loops.run("slow", std::chrono::milliseconds(20), [&]() -> aio::Task<bool> {
    return take_turn(plan, 1);
  });
  loops.run("waiting", {}, [&]() -> aio::Task<bool> { return take_turn(plan, 1); });
  CHECK(server::all_well(loops.report()));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  CHECK(loops.report().at(0).late);
  CHECK_FALSE(loops.report().at(1).late);
  CHECK(server::health_text(loops.report()).find(" s ago, late\n") != std::string::npos);
  loops.stop();
  io.run();
}

} // namespace own_loops_test
