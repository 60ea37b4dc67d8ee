#include "support/run_task.hpp"

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

using namespace nixbuild;

namespace {

aio::Task<void> use_pool(aio::BlockingPool& pool, std::string& out, std::thread::id& where) {
  auto work = [&where] {
    where = std::this_thread::get_id();
    return std::string("done");
  };
  out = co_await pool.run(std::move(work));
  auto failing = [] {
    throw Error(Reaction::Busy, "test.failing", "no room");
  };
  co_await pool.run(std::move(failing));
}

aio::Task<void> work_slowly(aio::BlockingPool& pool, std::atomic<int>& done, bool with_result) {
  auto work = [&done] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return ++done;
  };
  auto silent_work = [work] {
    work();
  };
  if (with_result) {
    co_await pool.run(std::move(work));
  } else {
    co_await pool.run(std::move(silent_work));
  }
}

aio::Task<void> cancel_all(aio::TaskGroup& group, aio::BlockingPool& pool) {
  auto wait = [] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  co_await pool.run(std::move(wait));
  group.cancel();
  co_await group.join();
}

} // namespace

TEST_CASE("blocking pool: work whose caller is cancelled is done to its end", "[aio][fault]") {
  for (int round = 0; round < 10; ++round) {
    boost::asio::io_context io;
    NullLog log;
    aio::TaskGroup group(io.get_executor(), log);
    aio::BlockingPool pool(3);
    std::atomic<int> done{0};
    group.spawn("with a result", work_slowly(pool, done, true));
    group.spawn("without", work_slowly(pool, done, false));
    test::run_task(io, cancel_all(group, pool));
    pool.join();
    CHECK(done == 2);
    CHECK(group.running() == 0);
  }
}

TEST_CASE("blocking pool: results and exceptions come back, work runs elsewhere", "[aio]") {
  boost::asio::io_context io;
  aio::BlockingPool pool(2);
  std::string out;
  std::thread::id where;
  try {
    test::run_task(io, use_pool(pool, out, where));
    FAIL("the exception was lost");
  } catch (const Error& error) {
    CHECK(error.code() == "test.failing");
  }
  CHECK(out == "done");
  CHECK(where != std::this_thread::get_id());
  pool.join();
}
