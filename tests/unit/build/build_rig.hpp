#pragma once

#include "support/fake_executor.hpp"

#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/store/files.hpp>
#include <nixbuild/store/memory.hpp>
#include <nixbuild/store/sqlite.hpp>

#include <boost/asio/io_context.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

/// Builds on paper with everything round them: what a daemon has, without sessions.
namespace nixbuild::tests {

/// The time of day stands still unless somebody sets it.
class RigClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override {
    return WallTime(std::chrono::seconds(1'700'000'000)) + std::chrono::hours(ahead.load());
  }

  std::atomic<int> ahead{0}; ///< hours

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }
};

/// What outlives a daemon: its disk, and the machines it has started.
struct World {
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::SegmentStore> segments = store::make_memory_segments();
  std::unique_ptr<store::LogStore> logs = store::make_memory_logs();
  std::shared_ptr<FakeHost> host = std::make_shared<FakeHost>();
  std::chrono::seconds return_grace{600}; ///< of its daemons
  int hours_ahead = 0;                    ///< that their clocks say
  store::AccountId alice = db->ensure_account("alice");
  store::AccountId bob = db->ensure_account("bob");

  [[nodiscard]] std::string log_of(std::int64_t build) const {
    return logs->read(build, 0, 1'000'000).value_or("none");
  }
};

/// One asker: asks, reads the log, and waits for the end.
class Asker {
public:
  [[nodiscard]] bool ended() const {
    const std::lock_guard lock(mutex_);
    return result_.has_value() || !failure_.empty();
  }

  [[nodiscard]] model::BuildResult result() const {
    const std::lock_guard lock(mutex_);
    return result_.value_or(model::BuildResult());
  }

  /// The exception that the build ended with.
  [[nodiscard]] std::string failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }

  [[nodiscard]] std::string log() const {
    const std::lock_guard lock(mutex_);
    return log_;
  }

  [[nodiscard]] std::int64_t number() const {
    const std::lock_guard lock(mutex_);
    return number_;
  }

  [[nodiscard]] bool joined() const {
    const std::lock_guard lock(mutex_);
    return joined_;
  }

  /// Goes away, as a client whose connection is cut.
  void leave();

private:
  friend struct Daemon;
  mutable std::mutex mutex_;
  std::optional<model::BuildResult> result_;
  std::string failure_;
  std::string log_;
  std::int64_t number_ = 0;
  bool joined_ = false;
  bool attached_ = false;
  bool left_ = false;
};

/// A daemon's life over a world.
struct Daemon {
  Daemon(World& world,
         FakeExecutor::Script script,
         build::BuilderSettings settings = {},
         build::KeptMachines* kept = nullptr);
  /// Ends it in good order: its builds are left to the next one.
  ~Daemon();

  /// The same at once.
  void end();
  /// As SIGKILL does: nothing is told to anybody.
  void kill();

  /// Asks and follows; comes back once the asker is attached.
  std::shared_ptr<Asker> ask(build::BuildRequest request);
  /// Asks and waits for the end.
  std::shared_ptr<Asker> complete(build::BuildRequest request);
  /// A path with these contents in the account's store.
  model::StorePath add(store::AccountId account,
                       std::string_view name,
                       std::string_view contents,
                       const model::StorePaths& references = {});
  [[nodiscard]] std::string contents(store::AccountId account, const model::StorePath& path);
  void collect_garbage(store::AccountId account);

  World& world;
  RigClock clock;
  NullLog log;
  boost::asio::io_context io;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  aio::BlockingPool pool{2};
  model::SigningKey signing_key = model::SigningKey::generate("rig-1");
  store::Store store;
  FakeExecutor executor;
  build::LeaseDesk leases;
  build::Builder builder;
  aio::TaskGroup build_tasks{io.get_executor(), log};
  aio::TaskGroup asker_tasks{io.get_executor(), log};
  build::SharedBuilds builds;
  std::jthread loop;

private:
  static aio::Task<void>
  follow(Daemon& self, std::shared_ptr<Asker> asker, build::BuildRequest request);
  void stop(bool orderly);
  bool over_ = false;
};

/// A daemon that will be killed: like a killed process it is never taken apart.
[[nodiscard]] Daemon&
mortal(World& world, FakeExecutor::Script script, build::BuilderSettings settings = {});

[[nodiscard]] model::StorePath path_named(std::string_view name);

/// A derivation of these inputs with the one output `name`.
[[nodiscard]] build::BuildRequest
request_for(store::AccountId account, std::string_view name, const model::StorePaths& inputs = {});

/// Waits up to some seconds until the condition holds.
[[nodiscard]] bool eventually(const std::function<bool()>& condition);

} // namespace nixbuild::tests
