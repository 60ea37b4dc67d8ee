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
#include <vector>

namespace lease_desk_test {

using namespace nixbuild;

namespace {

class TestClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override {
    return WallTime(std::chrono::seconds(1'700'000'000));
  }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }
};

/// A desk of one machine with two cpus and 1 GiB.
struct Office {
  TestClock clock;
  std::vector<scheduler::BuildRecord> learned;
  build::LeaseDesk desk{rules(),
                        {{"local", 2, kGiB, {"x86_64-linux"}, {"recursive-nix"}}},
                        clock,
                        [this](const scheduler::BuildRecord& record) {
                          learned.push_back(record);
                        }};

  static scheduler::SchedulerSettings rules() {
    scheduler::SchedulerSettings settings;
    settings.restart_delay = std::chrono::milliseconds(1);
    return settings;
  }
};

scheduler::BuildRequest one_cpu(std::string platform = "x86_64-linux") {
  static scheduler::BuildId last = 0;
  scheduler::BuildRequest request;
  request.id = ++last;
  request.account = "a";
  request.name = "thing-1";
  request.platform = std::move(platform);
  request.bounds.max_cpus = 1;
  request.bounds.default_cpus = 1;
  request.bounds.min_memory = 256 * kMiB;
  request.bounds.max_memory = 512 * kMiB;
  request.bounds.default_memory_per_cpu = 256 * kMiB;
  return request;
}

const std::function<bool()> kPatient = [] {
  return false;
};
const std::function<bool()> kImpatient = [] {
  return true;
};

aio::Task<void> take(build::LeaseDesk& desk, std::string platform) {
  auto request = one_cpu(std::move(platform));
  auto lease = co_await desk.acquire(std::move(request), kPatient);
  CHECK(lease.node() == "local");
}

aio::Task<void> hold(build::LeaseDesk& desk, int& inside, int& most) {
  auto for_lease = one_cpu();
  auto lease = co_await desk.acquire(std::move(for_lease), kPatient);
  most = std::max(most, ++inside);
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  timer.expires_after(std::chrono::milliseconds(2));
  co_await timer.async_wait(boost::asio::use_awaitable);
  --inside;
}

aio::Task<void> give_up_waiting(build::LeaseDesk& desk, std::string& code) {
  auto for_first = one_cpu();
  auto first = co_await desk.acquire(std::move(for_first), kPatient);
  auto for_second = one_cpu();
  auto second = co_await desk.acquire(std::move(for_second), kPatient);
  try {
    auto for_third = one_cpu();
    auto third = co_await desk.acquire(std::move(for_third), kImpatient);
  } catch (const Error& error) {
    code = error.code();
  }
}

} // namespace

TEST_CASE("lease desk: no more at once than fit, and everybody gets a turn", "[build]") {
  boost::asio::io_context io;
  Office office;
  int inside = 0;
  int most = 0;
  int ended = 0;
  for (int i = 0; i < 20; ++i) {
    boost::asio::co_spawn(io,
                          hold(office.desk, inside, most),
                          [&ended](std::exception_ptr failure) { ended += failure ? 0 : 1; });
  }
  io.run();
  CHECK(ended == 20);
  CHECK(most == 2);
}

namespace {

/// Holds all there is for a build that talks to a store, while another one is asked for from
/// inside.
aio::Task<void> wait_from_inside(build::LeaseDesk& desk, bool talks, std::string& got) {
  auto for_outer = one_cpu();
  for_outer.bounds.min_cpus = 2;
  for_outer.bounds.max_cpus = 2;
  if (talks) {
    for_outer.features = {"recursive-nix"};
  }
  auto outer = co_await desk.acquire(std::move(for_outer), kPatient);
  auto tries = std::make_shared<int>(0);
  std::function<bool()> soon = [tries] {
    return ++*tries > 4;
  };
  std::function<bool()> insist = [] {
    return true;
  };
  try {
    auto for_inner = one_cpu();
    auto inner = co_await desk.acquire(std::move(for_inner), soon, insist);
    got = inner.why_size();
    CHECK(inner.granted());
    CHECK(desk.counts().running == 2);
    // A second one would need a second builder that waits.
    auto for_more = one_cpu();
    *tries = 0;
    auto more = co_await desk.acquire(std::move(for_more), soon, insist);
    got = "two";
  } catch (const Error& error) {
    got += error.code();
  }
}

} // namespace

TEST_CASE("lease desk: a builder does not wait for its own place", "[build]") {
  boost::asio::io_context io;
  Office office;
  office.desk.set_health("local", {});
  std::string got;
  test::run_task(io, wait_from_inside(office.desk, true, got));
  CHECK(got == "beside all others: a builder waits for itbuild.cancelled");
  CHECK(office.desk.counts().running == 0);
  got.clear();
  test::run_task(io, wait_from_inside(office.desk, false, got));
  CHECK(got == "build.cancelled");
}

TEST_CASE("lease desk: a refusal keeps the engine's code", "[build][reject]") {
  boost::asio::io_context io;
  Office office;
  test::run_task(io, take(office.desk, "x86_64-linux"));
  try {
    test::run_task(io, take(office.desk, "mips-linux"));
    FAIL("granted");
  } catch (const Error& error) {
    CHECK(error.code() == "scheduler.platform");
    CHECK(error.reaction() == Reaction::Unsupported);
  }
}

TEST_CASE("lease desk: one who gives up leaves the queue", "[build]") {
  boost::asio::io_context io;
  Office office;
  std::string code;
  test::run_task(io, give_up_waiting(office.desk, code));
  CHECK(code == "build.cancelled");
  test::run_task(io, take(office.desk, "x86_64-linux"));
}

namespace {

scheduler::Measurements peak(std::uint64_t bytes) {
  scheduler::Measurements measured;
  measured.peak_memory_bytes = bytes;
  return measured;
}

aio::Task<void> grow(build::LeaseDesk& desk) {
  auto request = one_cpu();
  auto lease = co_await desk.acquire(std::move(request), kPatient);
  CHECK(lease.memory_bytes() == 256 * kMiB);
  CHECK_FALSE(lease.why_size().empty());
  REQUIRE(lease.finish(scheduler::Outcome::OutOfMemory, peak(256 * kMiB)));
  CHECK_FALSE(lease.granted());
  co_await desk.again(lease, kPatient);
  CHECK(lease.memory_bytes() == 512 * kMiB);
  // More it may not have.
  CHECK_FALSE(lease.finish(scheduler::Outcome::OutOfMemory, peak(512 * kMiB)));
}

aio::Task<void> be_lost(build::LeaseDesk& desk, unsigned& machines) {
  auto request = one_cpu();
  request.max_restarts = 2;
  auto lease = co_await desk.acquire(std::move(request), kPatient);
  machines = 1;
  while (lease.finish(scheduler::Outcome::Lost, {})) {
    co_await desk.again(lease, kPatient);
    ++machines;
  }
}

} // namespace

TEST_CASE("lease desk: a build that ran out of memory gets a larger piece, up to its bound",
          "[build]") {
  boost::asio::io_context io;
  Office office;
  test::run_task(io, grow(office.desk));
  CHECK(office.desk.counts().builds == 0);
  CHECK(office.desk.nodes().front().cpus_used == 0);
  CHECK_FALSE(office.learned.empty());
}

TEST_CASE("lease desk: a lost machine is replaced as often as the request says", "[build]") {
  boost::asio::io_context io;
  Office office;
  unsigned machines = 0;
  test::run_task(io, be_lost(office.desk, machines));
  CHECK(machines == 3);
  CHECK(office.desk.counts().builds == 0);
}

TEST_CASE("lease desk: a machine that runs already takes its capacity from the others", "[build]") {
  Office office;
  auto request = one_cpu();
  const auto id = request.id;
  request.last_attempt = 4;
  request.running = scheduler::RunningAttempt{"local", 2, 512 * kMiB, office.desk.now()};
  {
    const auto lease = office.desk.adopt(std::move(request));
    CHECK(lease.granted());
    CHECK(office.desk.nodes().front().cpus_used == 2);
    CHECK(office.desk.explain(id)->phase == scheduler::BuildPhase::Running);
  }
  CHECK(office.desk.nodes().front().cpus_used == 0);
  CHECK_FALSE(office.desk.explain(id));
}

} // namespace lease_desk_test
