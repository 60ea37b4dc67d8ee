#include "support/run_task.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/build/lease_desk.hpp>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <catch2/catch.hpp>

#include <chrono>
#include <string>

using namespace nixbuild;

namespace {

std::unique_ptr<scheduler::ComputeEngine> engine() {
  scheduler::LocalEngineSettings settings;
  settings.capacity = scheduler::Capacity{2, kGiB};
  settings.platforms = {"x86_64-linux"};
  return std::make_unique<scheduler::LocalEngine>(settings);
}

scheduler::LeaseRequest one_cpu(std::string platform = "x86_64-linux") {
  scheduler::LeaseRequest request;
  request.capacity = scheduler::Capacity{1, kMiB};
  request.platform = std::move(platform);
  return request;
}

const std::function<bool()> kPatient = [] {
  return false;
};
const std::function<bool()> kImpatient = [] {
  return true;
};

aio::Task<void> take(build::LeaseDesk& desk, std::string platform) {
  auto lease = co_await desk.acquire(one_cpu(std::move(platform)), kPatient);
  CHECK(lease.node() == "local");
}

aio::Task<void> hold(build::LeaseDesk& desk, int& inside, int& most) {
  auto lease = co_await desk.acquire(one_cpu(), kPatient);
  most = std::max(most, ++inside);
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  timer.expires_after(std::chrono::milliseconds(2));
  co_await timer.async_wait(boost::asio::use_awaitable);
  --inside;
}

aio::Task<void> give_up_waiting(build::LeaseDesk& desk, std::string& code) {
  auto first = co_await desk.acquire(one_cpu(), kPatient);
  auto second = co_await desk.acquire(one_cpu(), kPatient);
  try {
    auto third = co_await desk.acquire(one_cpu(), kImpatient);
  } catch (const Error& error) {
    code = error.code();
  }
}

} // namespace

TEST_CASE("lease desk: no more at once than fit, and everybody gets a turn", "[build]") {
  boost::asio::io_context io;
  build::LeaseDesk desk(engine());
  int inside = 0;
  int most = 0;
  int ended = 0;
  for (int i = 0; i < 20; ++i) {
    boost::asio::co_spawn(io, hold(desk, inside, most), [&ended](std::exception_ptr failure) {
      ended += failure ? 0 : 1;
    });
  }
  io.run();
  CHECK(ended == 20);
  CHECK(most == 2);
}

TEST_CASE("lease desk: a refusal keeps the engine's code", "[build][reject]") {
  boost::asio::io_context io;
  build::LeaseDesk desk(engine());
  test::run_task(io, take(desk, "x86_64-linux"));
  try {
    test::run_task(io, take(desk, "mips-linux"));
    FAIL("granted");
  } catch (const Error& error) {
    CHECK(error.code() == "scheduler.platform");
    CHECK(error.reaction() == Reaction::Unsupported);
  }
}

TEST_CASE("lease desk: one who gives up leaves the queue", "[build]") {
  boost::asio::io_context io;
  build::LeaseDesk desk(engine());
  std::string code;
  test::run_task(io, give_up_waiting(desk, code));
  CHECK(code == "build.cancelled");
  test::run_task(io, take(desk, "x86_64-linux"));
}
