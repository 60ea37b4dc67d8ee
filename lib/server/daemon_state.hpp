#pragma once

#include "host_faults.hpp"
#include "long_work.hpp"
#include "own_loops.hpp"
#include "quota_desk.hpp"
#include "session_book.hpp"

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/system_clock.hpp>
#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/build/kept_machines.hpp>
#include <nixbuild/build/lease_desk.hpp>
#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/server/counters.hpp>
#include <nixbuild/server/daemon.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/http.hpp>
#include <nixbuild/server/late_executor.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

namespace nixbuild::server {

/// Whoever owns a loop's tasks ends them before what they use: `drop_tasks` destroys every
/// coroutine that still waits in the loop. Called once no thread runs it any more.
class OwnedIo : public boost::asio::io_context {
public:
  void drop_tasks() { shutdown(); }
};

/// Everything of a daemon. Members go in the reverse order of their beginnings, and before all of
/// them the coroutines that use them.
struct Daemon::State {
  DaemonSettings settings;
  Log& log;
  UniqueFd lock;
  MachineShare share;
  OwnedIo io;
  aio::BlockingPool pool;
  aio::BlockingPool door_pool; ///< for those who come in: nothing that sessions do keeps them out
  LongWork long_work;
  aio::BlockingPool own_pool; ///< of its own loops: nothing that sessions do keeps them waiting
  aio::SystemClock system_clock;
  const Clock& clock;
  model::SigningKey signing_key;
  std::unique_ptr<store::MetadataDb> db;
  std::unique_ptr<store::SegmentStore> segments;
  std::unique_ptr<store::LogStore> logs;
  store::Store store;
  AccountDesk accounts;
  HostFaults faults;
  LateExecutor executor;
  build::LeaseDesk leases;
  QuotaDesk quotas;
  build::KeptMachines kept;
  build::Builder builder;
  aio::TaskGroup build_tasks;
  aio::TaskGroup session_tasks;
  build::SharedBuilds builds;
  SessionParts parts;
  ServerCounters counters;
  SessionBook session_book;
  std::unique_ptr<HttpServer> http;           ///< none: not configured
  boost::asio::any_io_executor accept_strand; ///< of the acceptor
  boost::asio::local::stream_protocol::acceptor acceptor;
  std::atomic<MonotonicTime> last_work;
  std::atomic<bool> unsynced = false;
  std::atomic<bool> ending_begun = false;
  std::atomic<bool> stopping = false;
  std::atomic<bool> hurry = false; ///< what runs is not waited for (any longer)
  std::atomic<int> exit_status = 0;
  bool stuck = false; ///< blocked work has not come to its end
  OwnLoops loops;
  OwnLoops ending; ///< the end, which is not given up either

  /// Destroyed before everything above, also when the constructor fails half-way: no coroutine
  /// outlives what it uses.
  struct TasksFirst {
    State& state;

    ~TasksFirst() {
      state.http.reset();
      state.join_pools();
      state.io.drop_tasks();
    }
  } tasks_first{*this};

  State(DaemonSettings given, const ExecutorFactory& make_executor, Log& l);

  std::function<void(const store::BuildRecord&)> count_builds();
  std::function<void(build::BuilderConversation)> serve_builders();
  aio::Task<void> serve_builder(std::shared_ptr<build::BuilderConversation> conversation);
  void learn_from_history();
  void take_up_builds();
  void begin_loops();
  aio::Task<bool> accept_session();
  aio::Task<void> serve(std::shared_ptr<UniqueFd> peer);
  aio::Task<int> run_session(ReceivedHandoff received);
  SessionCaller caller_of(const Handoff& handoff);
  aio::Task<void> pause(std::chrono::milliseconds time);
  aio::Task<bool> tick();
  aio::Task<bool> sync();
  aio::Task<bool> look_at_machine();
  aio::Task<bool> count_cpu_time();
  aio::Task<bool> forget_what_is_old();
  void give_up(const std::string& why);
  void begin_ending(bool wait_for_builds);
  aio::Task<bool> end();
  [[nodiscard]] std::size_t tasks_running() const;
  [[nodiscard]] std::size_t blocked() const noexcept;
  void join_pools();
  [[nodiscard]] SessionLimits session_limits() const;
  void run_io();
  void finish();
};

} // namespace nixbuild::server
