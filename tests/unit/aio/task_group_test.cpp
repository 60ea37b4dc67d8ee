#include "support/run_task.hpp"

#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <catch2/catch.hpp>

#include <string>
#include <vector>

using namespace nixbuild;

namespace {

class ListLog final : public Log {
public:
  void write(LogLevel, std::string_view message) noexcept override { lines.emplace_back(message); }

  std::vector<std::string> lines;
};

aio::Task<void> fail() {
  throw Error(Reaction::Internal, "test.failing", "broken");
  co_return;
}

aio::Task<void> sleep_long() {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  timer.expires_after(std::chrono::hours(1));
  co_await timer.async_wait(boost::asio::use_awaitable);
}

aio::Task<void> cancel_and_join(aio::TaskGroup& group) {
  group.cancel();
  co_await group.join();
}

} // namespace

TEST_CASE("task group: a failure is logged under the task's name", "[aio]") {
  boost::asio::io_context io;
  ListLog log;
  aio::TaskGroup group(io.get_executor(), log);
  group.spawn("the failing one", fail());
  io.run();
  REQUIRE(log.lines.size() == 1);
  CHECK(log.lines[0] == "the failing one: broken");
  CHECK(group.running() == 0);
}

TEST_CASE("task group: cancel ends waiting tasks and join sees it", "[aio]") {
  boost::asio::io_context io;
  NullLog log;
  aio::TaskGroup group(io.get_executor(), log);
  for (int i = 0; i < 10; ++i) {
    group.spawn("sleeper", sleep_long());
  }
  test::run_task(io, cancel_and_join(group));
  CHECK(group.running() == 0);
}
