#include <nixbuild/base/error.hpp>
#include <nixbuild/server/session_caller.hpp>
#include <nixbuild/store/memory.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace session_caller_test {

using namespace nixbuild;

namespace {

class RigidClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override { return {}; }

  [[nodiscard]] MonotonicTime monotonic() const override { return {}; }
};

server::SessionCaller caller_with(const std::vector<std::string>& environment) {
  server::SessionCaller caller;
  caller.account = store::AccountId{7};
  caller.key = std::string("3");
  caller.settings = server::SessionSettings::resolve({}, environment);
  return caller;
}

build::BuildRequest order_of(const server::SessionCaller& caller,
                             const model::BuildOptions& options = {}) {
  const auto path = model::StorePath::parse("0123456789abcdfghijklmnpqrsvwxyz-thing.drv");
  return caller.order(path, {}, options);
}

} // namespace

TEST_CASE("session caller: what was set goes with every build", "[server]") {
  const auto caller = caller_with({"NIXBUILD_MAX_CPU=8",
                                   "NIXBUILD_MIN_MEM=2000",
                                   "NIXBUILD_KEEP_BUILDS_RUNNING=90",
                                   "NIXBUILD_REUSE_BUILD_FAILURES=1",
                                   "NIXBUILD_PRIORITY=5",
                                   "NIXBUILD_TAG_JOB=x",
                                   "NIXBUILD_TIMEOUT=60"});
  const auto request = order_of(caller);
  CHECK(request.account == store::AccountId{7});
  CHECK(request.placement.key == "3");
  CHECK(request.placement.max_cpus == 8U);
  CHECK(request.placement.min_memory_bytes == 2000 * kMiB);
  CHECK(request.placement.priority == 5);
  CHECK(request.placement.tags == std::set<std::string>{"JOB:x"});
  CHECK(request.options.timeout == std::chrono::seconds(60));
  REQUIRE(request.policy);
  CHECK(request.policy->keep == build::KeepRunning::Grace);
  CHECK(request.policy->grace == std::chrono::seconds(90));
  CHECK(request.policy->reuse_failures);
  CHECK_FALSE(request.policy->share_results);
}

TEST_CASE("session caller: without settings the client's options hold", "[server]") {
  model::BuildOptions options;
  options.timeout = std::chrono::seconds(10);
  options.max_silent_time = std::chrono::seconds(4);
  options.max_log_bytes = 1000;
  const auto request = order_of(caller_with({}), options);
  CHECK(request.options.timeout == options.timeout);
  CHECK(request.options.max_silent_time == options.max_silent_time);
  CHECK(request.options.max_log_bytes == options.max_log_bytes);
  CHECK(request.policy->keep == build::KeepRunning::Abort);
  CHECK_FALSE(request.placement.max_cpus);
}

TEST_CASE("session caller: kept to its end is neither a time nor an end", "[server]") {
  const auto request = order_of(caller_with({"NIXBUILD_KEEP_BUILDS_RUNNING=true"}));
  CHECK(request.policy->keep == build::KeepRunning::Keep);
}

TEST_CASE("session caller: a missing permission and a reading session are told apart",
          "[server][reject]") {
  const auto code = [](const server::SessionCaller& caller, server::Permission permission) {
    try {
      caller.expect(permission, "AddToStoreNar");
    } catch (const Error& error) {
      CHECK(std::string(error.message()).find("AddToStoreNar") == 0);
      return error.code();
    }
    return std::string("none");
  };
  server::SessionCaller caller;
  CHECK(code(caller, server::Permission::StoreWrite) == "none");
  caller.write = false;
  CHECK(code(caller, server::Permission::StoreWrite) == "session.read-only");
  CHECK(code(caller, server::Permission::StoreRead) == "none");
  caller.write = true;
  caller.permissions = server::Permissions::parse("store:read");
  CHECK(code(caller, server::Permission::StoreWrite) == "permission.missing");
}

TEST_CASE("session caller: a builder cannot wait for itself, nor too deeply", "[server][reject]") {
  const auto own = model::StorePath::parse("0123456789abcdfghijklmnpqrsvwxyz-thing.drv");
  const auto other = model::StorePath::parse("1123456789abcdfghijklmnpqrsvwxyz-other.drv");
  const auto db = store::make_memory_metadata();
  const auto segments = store::make_memory_segments();
  const RigidClock clock;
  store::Store store(*db, *segments, clock, model::StoreDir());
  aio::BlockingPool pool(1);
  auto caller = caller_with({});
  const auto inside = [&](std::vector<model::StorePath> derivations) {
    const build::BuilderStore::Parts parts{store, pool, caller.account};
    caller.inside = std::make_shared<build::BuilderStore>(
        parts, model::StorePaths(), std::move(derivations), nullptr);
  };
  inside({other});
  CHECK(order_of(caller).waiting == std::vector<model::StorePath>{other});
  inside({own, other});
  CHECK_THROWS_WITH(order_of(caller), Catch::Contains("asks for its own build"));
  inside({other, other, other, other, other});
  CHECK_THROWS_WITH(order_of(caller), Catch::Contains("at most 4 may wait"));
  caller.inside.reset();
  pool.join();
}

} // namespace session_caller_test
