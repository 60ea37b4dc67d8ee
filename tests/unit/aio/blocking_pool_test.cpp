#include "support/run_task.hpp"

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

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

} // namespace

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
