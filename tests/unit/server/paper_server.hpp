#pragma once

#include "support/fake_executor.hpp"

#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/server/serve_session.hpp>
#include <nixbuild/store/memory.hpp>

#include <boost/asio/io_context.hpp>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace nixbuild::tests {

class PaperClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override {
    return WallTime(std::chrono::seconds(1'700'000'000));
  }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }
};

inline scheduler::NodeSpec paper_machine() {
  scheduler::NodeSpec node;
  node.name = "local";
  node.cpus = 2;
  node.memory_bytes = 4 * kGiB;
  node.platforms = {"x86_64-linux"};
  return node;
}

/// Machines that were lost are replaced at once.
inline scheduler::SchedulerSettings paper_rules() {
  scheduler::SchedulerSettings settings;
  settings.restart_delay = std::chrono::milliseconds(1);
  return settings;
}

/// A whole server in memory, with builds on paper.
struct PaperServer {
  explicit PaperServer(FakeExecutor::Script script,
                       std::unique_ptr<store::SegmentStore> held = store::make_memory_segments())
      : segments(std::move(held)), executor(io.get_executor(), std::move(script)) {
    ::signal(SIGPIPE, SIG_IGN);
    loop = std::jthread([this] { io.run(); });
  }

  ~PaperServer() {
    work.reset();
    loop.join();
    pool.join();
  }

  boost::asio::io_context io;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  aio::BlockingPool pool{2};
  PaperClock clock;
  NullLog log;
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::SegmentStore> segments;
  std::unique_ptr<store::LogStore> logs = store::make_memory_logs();
  store::Store store{*db, *segments, clock, model::StoreDir()};
  store::AccountId account = db->ensure_account("default");
  FakeExecutor executor;
  build::LeaseDesk leases{paper_rules(), {paper_machine()}, clock};
  build::Builder builder{{store, *logs, executor, leases, pool, clock, log, nullptr}, {}};
  aio::TaskGroup tasks{io.get_executor(), log};
  build::SharedBuilds builds{builder, tasks};
  server::SessionParts parts{store, *logs, builds, pool, log, clock};
  std::shared_ptr<build::BuilderStore> inside; ///< of the sessions that begin
  std::jthread loop;
};

inline server::SessionCaller caller_of(const PaperServer& server, bool write) {
  server::SessionCaller caller;
  caller.account = server.account;
  caller.write = write;
  caller.inside = server.inside;
  return caller;
}

inline model::StorePath path_named(std::string_view name) {
  const auto digest = hash_of(HashAlgorithm::Sha1, bytes_of(name));
  return model::StorePath(digest.bytes(), name);
}

inline FakeBuild good_build(const sandbox::ExecutionPlan&) {
  FakeBuild script;
  script.log.push_back({"one line\n"});
  script.nars.push_back(nar_of_file("result"));
  return script;
}

} // namespace nixbuild::tests
