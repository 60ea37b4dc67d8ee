#include "server/host_faults.hpp"
#include "support/run_task.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/late_executor.hpp>

#include <boost/asio/io_context.hpp>
#include <catch2/catch.hpp>

#include <mutex>
#include <string>
#include <vector>

namespace late_executor_test {

using namespace nixbuild;
using sandbox::HostVerdict;
using server::LateExecutor;

namespace {

class MovedClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override { return WallTime(std::chrono::seconds(86'400)); }

  [[nodiscard]] MonotonicTime monotonic() const override { return now; }

  MonotonicTime now{std::chrono::hours(1)};
};

class ListedLog final : public Log {
public:
  void write(LogLevel level, std::string_view message) noexcept override {
    const std::lock_guard lock(mutex);
    lines.push_back((level == LogLevel::Error ? "error " : "") + std::string(message));
  }

  std::mutex mutex;
  std::vector<std::string> lines;
};

/// What the host is, and what was asked of it.
struct Host {
  HostVerdict verdict;
  std::string kernel = "there"; ///< empty: no executor can be made
  unsigned made = 0;
  unsigned tried = 0;
};

class HostExecutor final : public sandbox::Executor {
public:
  explicit HostExecutor(Host& host) : host_(host) {}

  aio::Task<std::unique_ptr<sandbox::Execution>> start(sandbox::ExecutionPlan) override {
    co_return nullptr;
  }

  HostVerdict host_failed(const std::string&) override {
    ++host_.tried;
    return host_.verdict;
  }

  [[nodiscard]] std::string accelerator() const override { return "kvm"; }

private:
  Host& host_;
};

aio::Task<void> prepare_into(sandbox::Executor& executor, std::string* answer) {
  *answer = co_await executor.prepare();
}

struct Rig {
  tests::ScratchFolder folder;
  MovedClock clock;
  ListedLog log;
  Host host;
  aio::BlockingPool pool{2};
  server::HostFaults faults{folder.path(), clock, log};
  LateExecutor executor{[this]() -> std::unique_ptr<sandbox::Executor> {
                          ++host.made;
                          if (host.kernel.empty()) {
                            throw Error(
                                Reaction::NotFound, "sandbox.kernel-none", "no kernel anywhere");
                          }
                          return std::make_unique<HostExecutor>(host);
                        },
                        pool,
                        clock,
                        server::teller_of(faults)};

  /// The accelerator, or why a build may not begin.
  std::string prepare() {
    boost::asio::io_context io;
    std::string answer;
    try {
      test::run_task(io, prepare_into(executor, &answer));
    } catch (const Error& error) {
      answer = error.code() + ": " + error.message();
    }
    return answer;
  }

  [[nodiscard]] std::string written() const {
    return server::host_fault_in(folder.path()).value_or("nothing");
  }
};

} // namespace

TEST_CASE("late executor: where no machine works builds fail at once, until one does", "[server]") {
  Rig rig;
  CHECK(rig.prepare() == "kvm");
  rig.host.verdict = {HostVerdict::Use::Nothing, "no erofs"};
  CHECK(rig.executor.host_failed("a machine gave up").use == HostVerdict::Use::Nothing);
  CHECK(rig.faults.is_closed());
  CHECK(rig.faults.count() == 1);
  CHECK(rig.written() == "since 1970-01-02 00:00:00 UTC no machine works, builds fail: no erofs");
  REQUIRE(rig.log.lines.size() == 1);
  CHECK(rig.log.lines[0] == "error no machine works on this host, builds fail: no erofs");

  // Neither are builds let in, nor are machines tried for each.
  for (int i = 0; i < 3; ++i) {
    CHECK(rig.prepare() == "sandbox.host: no erofs");
    CHECK(rig.executor.host_failed("another one").use == HostVerdict::Use::Nothing);
  }
  CHECK(rig.host.tried == 1);
  CHECK(rig.host.made == 1);

  // After a while one machine is tried for all of them.
  rig.clock.now += LateExecutor::kClosedFor;
  CHECK(rig.prepare() == "sandbox.host: no erofs");
  CHECK(rig.prepare() == "sandbox.host: no erofs");
  CHECK(rig.host.tried == 2);
  CHECK(rig.host.made == 2);
  rig.clock.now += LateExecutor::kClosedFor;
  rig.host.verdict = {};
  CHECK(rig.prepare() == "kvm");
  CHECK(rig.host.tried == 3);
  CHECK_FALSE(rig.faults.is_closed());
  CHECK(rig.written() == "nothing");
  CHECK(rig.log.lines.back() == "machines work on this host again");
  CHECK(rig.prepare() == "kvm");
  CHECK(rig.host.made == 3);
}

TEST_CASE("late executor: a build's machine alone closes nothing", "[server]") {
  Rig rig;
  CHECK(rig.prepare() == "kvm");
  CHECK(rig.executor.host_failed("odd inputs").use == HostVerdict::Use::AsBefore);
  CHECK(rig.prepare() == "kvm");
  CHECK_FALSE(rig.faults.is_closed());
  CHECK(rig.written() == "nothing");
  // Whoever can end machines that way has no other machine tried for each of them.
  CHECK(rig.executor.host_failed("odd inputs").use == HostVerdict::Use::AsBefore);
  CHECK(rig.host.tried == 1);
  rig.clock.now += LateExecutor::kTrusted;
  rig.host.verdict = {HostVerdict::Use::Emulation, "Permission denied"};
  CHECK(rig.executor.host_failed("Permission denied").use == HostVerdict::Use::Emulation);
  CHECK(rig.host.tried == 2);
  CHECK(rig.faults.is_without_kvm());
  CHECK(rig.prepare() == "kvm"); // what its executor says: it is still the same
  CHECK(rig.host.made == 1);
  CHECK(rig.written().ends_with("builds run under software emulation: Permission denied"));
}

TEST_CASE("late executor: what cannot be made is told, and made as soon as it can be", "[server]") {
  Rig rig;
  rig.host.kernel.clear();
  CHECK(rig.prepare() == "sandbox.kernel-none: no kernel anywhere");
  CHECK(rig.executor.host_failed("no kernel anywhere").use == HostVerdict::Use::Nothing);
  CHECK(rig.faults.is_closed());
  CHECK(rig.written().ends_with("no kernel anywhere"));
  rig.host.kernel = "there";
  CHECK(rig.prepare() == "kvm");
  CHECK_FALSE(rig.faults.is_closed());
  CHECK(rig.written() == "nothing");
}

TEST_CASE("late executor: faults of an earlier daemon are forgotten", "[server]") {
  Rig rig;
  rig.faults.closed("two\nlines");
  CHECK(rig.written().ends_with("two lines"));
  const server::HostFaults next(rig.folder.path(), rig.clock, rig.log);
  CHECK(rig.written() == "nothing");
}

} // namespace late_executor_test
