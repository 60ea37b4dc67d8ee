#include "support/run_task.hpp"

#include <nixbuild/aio/event.hpp>

#include <catch2/catch.hpp>

#include <thread>
#include <vector>

using namespace nixbuild;

namespace {

aio::Task<void> wait_for(aio::Event& event, std::uint64_t target, int& woken) {
  for (;;) {
    const auto seen = event.count();
    if (seen >= target) {
      ++woken;
      co_return;
    }
    co_await event.wait(seen);
  }
}

aio::Task<void> wait_in_vain(aio::Event& event, bool& changed) {
  changed = co_await event.wait(event.count(), std::chrono::milliseconds(5));
}

} // namespace

TEST_CASE("event: wakes waiters of many threads, none is lost", "[aio][property]") {
  boost::asio::io_context io;
  aio::Event event;
  constexpr int waiters = 50;
  std::vector<int> woken(waiters, 0);
  for (auto& flag : woken) {
    boost::asio::co_spawn(
        boost::asio::make_strand(io), wait_for(event, 200, flag), [](std::exception_ptr) {});
  }
  std::jthread notifier([&event] {
    for (int i = 0; i < 200; ++i) {
      event.notify();
    }
  });
  std::jthread second([&io] { io.run(); });
  io.run();
  second.join();
  for (const int flag : woken) {
    CHECK(flag == 1);
  }
}

TEST_CASE("event: patience runs out without a change", "[aio]") {
  boost::asio::io_context io;
  aio::Event event;
  bool changed = true;
  test::run_task(io, wait_in_vain(event, changed));
  CHECK_FALSE(changed);
}
