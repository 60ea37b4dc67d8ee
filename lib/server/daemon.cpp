#include "builder_settings.hpp"
#include "http_hooks.hpp"
#include "machine_health.hpp"
#include "quota_desk.hpp"
#include "retention.hpp"
#include "session_times.hpp"

#include <nixbuild/aio/system_clock.hpp>
#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/server/admin.hpp>
#include <nixbuild/server/daemon.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/http.hpp>
#include <nixbuild/server/late_executor.hpp>
#include <nixbuild/server/recovery.hpp>
#include <nixbuild/server/reported_status.hpp>
#include <nixbuild/server/serve_session.hpp>
#include <nixbuild/server/session_caller.hpp>
#include <nixbuild/server/worker_session.hpp>
#include <nixbuild/store/files.hpp>
#include <nixbuild/store/sqlite.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kBlockingThreads = 8;
constexpr int kHandoffSeconds = 10;
constexpr unsigned kSyncSeconds = 5;
constexpr unsigned kHealthSeconds = 2;
constexpr std::chrono::hours kForgetting{1};
constexpr auto kStopPatience = std::chrono::seconds(10);

/// The key that signs what is built here; made at the first start.
model::SigningKey load_signing_key(const std::string& state_dir) {
  const auto file_name = state_dir + "/signing-key.secret";
  if (std::ifstream file(file_name); file) {
    std::string text;
    std::getline(file, text);
    return model::SigningKey::parse(text);
  }
  std::array<char, 64> host{};
  ::gethostname(host.data(), host.size() - 1);
  auto key = model::SigningKey::generate(fmt::format("{}-nixbuild-1", host.data()));
  const auto write = [](const std::string& name, mode_t mode, const std::string& text) {
    const UniqueFd file(system_call("daemon.key", "writing " + name, [&] {
      return ::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    }));
    system_call("daemon.key", "writing " + name, [&] {
      return ::write(file.get(), text.data(), text.size());
    });
  };
  write(state_dir + "/signing-key.public", 0644, key.public_text() + "\n");
  write(file_name, 0600, key.secret_text() + "\n");
  return key;
}

/// Nobody waits for the disk at a registration; `watch_idle` syncs every few seconds, and
/// `recover_state` finds what a power failure has lost.
store::SqliteOptions lazy_database() {
  store::SqliteOptions options;
  options.durable = false;
  return options;
}

store::FileSegmentOptions lazy_segments() {
  store::FileSegmentOptions options;
  options.durable = false;
  return options;
}

HttpSettings http_settings(const std::string& state_dir, const Config& config) {
  HttpSettings settings;
  settings.listen = config.http_listen;
  settings.allow_remote = config.http_allow_remote;
  settings.tokens_file =
      config.http_tokens.empty() ? state_dir + "/http-tokens" : config.http_tokens;
  return settings;
}

UniqueFd lock_state_dir(const std::string& state_dir) {
  if (::mkdir(state_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    throw_system_error("daemon.state-dir", "making the state directory " + state_dir);
  }
  const auto name = state_dir + "/daemon.lock";
  UniqueFd lock(system_call("daemon.state-dir", "opening " + name, [&] {
    return ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    throw Error(
        Reaction::Busy, "daemon.running", "another daemon serves " + state_dir + " already");
  }
  return lock;
}

std::uint64_t machine_memory() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE));
}

/// Every build and every dump holds descriptors; the soft limit of 1,024 is soon reached.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

scheduler::NodeSpec this_machine(const Config& config, const MachineShare& share) {
  scheduler::NodeSpec node;
  node.name = "local";
  node.cpus = share.cpus;
  node.memory_bytes = share.memory_bytes;
  node.platforms = config.platforms;
  if (node.platforms.empty()) {
    node.platforms = {"x86_64-linux", "i686-linux"};
  }
  node.features = config.features;
  return node;
}

/// A machine whose cpus are all busy is what builders want: that gate stays open.
scheduler::SchedulerSettings scheduling() {
  scheduler::SchedulerSettings settings;
  settings.gates.cpu_some = 101;
  return settings;
}

AccountDesk::Settings desk_settings(const DaemonSettings& settings) {
  AccountDesk::Settings desk{settings.config.settings,
                             {settings.state_dir + "/keys"},
                             http_settings(settings.state_dir, settings.config).tokens_file};
  if (!settings.config.keys_file.empty()) {
    desk.key_lists.emplace_back(settings.config.keys_file);
  }
  return desk;
}

/// A list of keys that cannot be written locks nobody out who is on it already.
void publish_keys_at_start(AccountDesk& accounts, Log& log) {
  try {
    accounts.publish_keys();
  } catch (const Error& error) {
    log.error(error.what());
  }
}

} // namespace

struct Daemon::State {
  DaemonSettings settings;
  Log& log;
  UniqueFd lock;
  MachineShare share;
  asio::io_context io;
  aio::BlockingPool pool{kBlockingThreads};
  aio::SystemClock clock;
  model::SigningKey signing_key;
  std::unique_ptr<store::MetadataDb> db;
  std::unique_ptr<store::SegmentStore> segments;
  std::unique_ptr<store::LogStore> logs;
  store::Store store;
  AccountDesk accounts;
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
  std::unique_ptr<HttpServer> http; ///< none: not configured
  asio::local::stream_protocol::acceptor acceptor;
  asio::steady_timer idle_timer;
  MonotonicTime last_work;
  bool stopping = false;
  std::atomic<bool> hurry = false; ///< a second signal has come
  int exit_status = 0;

  State(DaemonSettings given, const ExecutorFactory& make_executor, Log& l)
      : settings(std::move(given)), log(l), lock(lock_state_dir(settings.state_dir)),
        share(share_of(settings.config, std::thread::hardware_concurrency(), machine_memory())),
        signing_key(load_signing_key(settings.state_dir)),
        db(store::open_sqlite_metadata(settings.state_dir + "/metadata.sqlite", lazy_database())),
        segments(store::open_file_segments(settings.state_dir + "/store", lazy_segments())),
        logs(store::open_file_logs(settings.state_dir + "/logs")),
        store(*db, *segments, clock, model::StoreDir(settings.config.store_dir)),
        accounts(*db, clock, desk_settings(settings)),
        executor([this, make_executor] { return make_executor(io.get_executor()); }, pool),
        leases(scheduling(), {this_machine(settings.config, share)}, clock),
        quotas(store, accounts, leases, clock),
        kept(clock, {settings.config.kept_machines, settings.config.kept_time}),
        builder({store,
                 *logs,
                 executor,
                 leases,
                 pool,
                 clock,
                 log,
                 &signing_key,
                 count_builds(),
                 &kept,
                 serve_builders()},
                builder_settings(settings.config, share)),
        build_tasks(io.get_executor(), log), session_tasks(io.get_executor(), log),
        builds(builder, build_tasks),
        parts{store, *logs, builds, pool, log, clock, &accounts, &leases, &kept}, acceptor(io),
        idle_timer(io), last_work(clock.monotonic()) {
    db->ensure_account("default");
    recover_state(settings.state_dir, store, *segments, log);
    publish_keys_at_start(accounts, log);
    learn_from_history();
    quotas.tell_all();
    take_up_builds();
    auto listener =
        settings.listener ? std::move(settings.listener) : listen_for_handoffs(settings.state_dir);
    acceptor.assign(asio::local::stream_protocol(), listener.release());
    if (!settings.config.http_listen.empty()) {
      const HttpParts http_parts{store, *logs, clock, counters, log};
      http = std::make_unique<HttpServer>(io.get_executor(),
                                          http_settings(settings.state_dir, settings.config),
                                          http_parts,
                                          http_hooks({*db, accounts, builds, leases, executor}));
    }
  }

  std::function<void(const store::BuildRecord&)> count_builds();
  std::function<void(build::BuilderConversation)> serve_builders();
  aio::Task<void> serve_builder(std::shared_ptr<build::BuilderConversation> conversation);
  void learn_from_history();
  void take_up_builds();
  aio::Task<void> accept_sessions();
  aio::Task<void> serve(std::shared_ptr<UniqueFd> peer);
  aio::Task<int> run_session(ReceivedHandoff received);
  SessionCaller caller_of(const Handoff& handoff);
  aio::Task<void> watch_idle();
  aio::Task<void> forget_what_is_old();
  aio::Task<void> stop_on_signal();
  aio::Task<void> shut_down();
};

/// Before anybody can ask: whoever comes back shall find the build that still runs.
std::function<void(const store::BuildRecord&)> Daemon::State::count_builds() {
  return [this](const store::BuildRecord& record) {
    counters.build_ended(reported_status(record));
    counters.log_written(record.log_bytes);
  };
}

/// Builders' clients get sessions like all others, with a store of their own.
std::function<void(build::BuilderConversation)> Daemon::State::serve_builders() {
  return [this](build::BuilderConversation conversation) {
    auto shared = std::make_shared<build::BuilderConversation>(std::move(conversation));
    session_tasks.spawn("a builder's store", serve_builder(std::move(shared)));
  };
}

aio::Task<void>
Daemon::State::serve_builder(std::shared_ptr<build::BuilderConversation> conversation) {
  const auto executor_here = co_await asio::this_coro::executor;
  auto in = std::make_shared<aio::ByteStream>(executor_here, conversation->socket.duplicate());
  auto out = std::make_shared<aio::ByteStream>(executor_here, std::move(conversation->socket));
  SessionCaller caller;
  caller.account = conversation->account;
  caller.inside = conversation->store;
  auto look = [this, account = caller.account] {
    return accounts.settings_of(account);
  };
  caller.settings = co_await pool.run(std::move(look));
  SessionLimits limits;
  limits.idle = settings.config.session_idle;
  limits.stalled = settings.config.session_stalled;
  limits.deaf = settings.config.session_deaf;
  static_cast<void>(
      co_await run_worker_session(parts, limits, std::move(caller), in, out, nullptr));
}

/// What builds have taken before tells how large the next ones are made.
void Daemon::State::learn_from_history() {
  constexpr std::size_t kMostOfAccount = 2000;
  for (const auto& account : db->accounts()) {
    leases.learn(history_of(*db, account.id, kMostOfAccount));
  }
}

void Daemon::State::take_up_builds() {
  auto plans = builds.take_up();
  std::error_code ignored;
  bool left_behind = false;
  for (const auto& entry :
       std::filesystem::directory_iterator(settings.state_dir + "/run", ignored)) {
    left_behind = left_behind || !entry.path().filename().string().starts_with('.');
  }
  if (!plans.empty()) {
    log.info(fmt::format("{} builds of an earlier daemon are taken up", plans.size()));
  }
  if (left_behind) {
    auto sweep = executor.sweep(std::move(plans));
    build_tasks.spawn("removing what earlier builds left behind", std::move(sweep));
  }
}

aio::Task<void> Daemon::State::accept_sessions() {
  while (!stopping) {
    auto socket = co_await acceptor.async_accept(asio::use_awaitable);
    auto peer = std::make_shared<UniqueFd>(socket.release());
    // Back to blocking: the hand-over itself is read on the blocking pool.
    const int flags = ::fcntl(peer->get(), F_GETFL);
    ::fcntl(peer->get(), F_SETFL, flags & ~O_NONBLOCK);
    ::fcntl(peer->get(), F_SETFD, FD_CLOEXEC);
    last_work = clock.monotonic();
    session_tasks.spawn("session", serve(std::move(peer)));
  }
}

aio::Task<void> Daemon::State::serve(std::shared_ptr<UniqueFd> peer) {
  auto receive = [peer] {
    return receive_handoff(*peer, kHandoffSeconds);
  };
  auto received = co_await pool.run(std::move(receive));
  send_acceptance(*peer);
  int status = 70;
  std::exception_ptr failure;
  try {
    status = co_await run_session(std::move(received));
  } catch (...) {
    failure = std::current_exception();
  }
  send_exit_status(*peer, status);
  if (failure) {
    std::rethrow_exception(failure);
  }
}

/// Who asks, with the settings in force; the scheduler learns the account's share and quotas.
/// Blocking.
SessionCaller Daemon::State::caller_of(const Handoff& handoff) {
  auto identity = accounts.identify(handoff);
  SessionCaller caller;
  caller.account = identity.account;
  caller.permissions = identity.permissions;
  caller.write = handoff.write;
  caller.key = identity.key == 0 ? std::string() : std::to_string(identity.key);
  caller.settings = SessionSettings::resolve(identity.layers, handoff.environment);
  quotas.apply(identity.account, caller.settings.quotas());
  if (identity.key != 0) {
    quotas.apply_key(identity.account, identity.key, caller.settings);
  }
  return caller;
}

aio::Task<int> Daemon::State::run_session(ReceivedHandoff received) {
  const auto executor_here = co_await asio::this_coro::executor;
  auto in = std::make_shared<aio::ByteStream>(executor_here, std::move(received.descriptors[0]));
  auto out = std::make_shared<aio::ByteStream>(executor_here, std::move(received.descriptors[1]));
  auto err = std::make_shared<aio::ByteStream>(executor_here, std::move(received.descriptors[2]));
  auto& handoff = received.handoff;
  auto times = std::make_shared<SessionTimes>(clock);
  const CountedSession counted(counters,
                               handoff.kind == HandoffKind::Admin    ? SessionProtocol::Admin
                               : handoff.kind == HandoffKind::Worker ? SessionProtocol::Worker
                                                                     : SessionProtocol::Serve);
  if (handoff.kind == HandoffKind::Admin) {
    co_return co_await run_admin_command(parts, std::move(handoff), in, out, err);
  }
  auto identify = [this, &handoff] {
    return caller_of(handoff);
  };
  std::optional<SessionCaller> identified;
  std::string refusal;
  try {
    identified = co_await pool.run(std::move(identify));
  } catch (const Error& error) {
    refusal = fmt::format("error: {}\n", error.what());
  }
  if (!refusal.empty()) {
    co_await err->write_all(bytes_of(refusal), std::chrono::seconds(2));
    co_return 3;
  }
  SessionLimits limits;
  limits.idle = settings.config.session_idle;
  limits.stalled = settings.config.session_stalled;
  limits.deaf = settings.config.session_deaf;
  SessionCaller caller = std::move(*identified);
  caller.times = std::move(times);
  std::string warnings;
  for (const auto& warning : caller.settings.warnings()) {
    warnings += fmt::format("[nixbuild] {}\n", warning);
  }
  if (!warnings.empty()) {
    co_await err->write_all(bytes_of(warnings), limits.deaf);
  }
  if (handoff.kind == HandoffKind::Worker) {
    co_return co_await run_worker_session(parts, limits, std::move(caller), in, out, err);
  }
  co_return co_await run_serve_session(parts, limits, std::move(caller), in, out, err);
}

aio::Task<void> Daemon::State::watch_idle() {
  unsigned ticks = 0;
  bool unsynced = false;
  while (!stopping) {
    idle_timer.expires_after(std::chrono::seconds(1));
    co_await idle_timer.async_wait(asio::use_awaitable);
    kept.tidy();
    const bool busy = session_tasks.running() + build_tasks.running() > 0;
    if (build_tasks.running() > 0 && ticks % kHealthSeconds == 0) {
      auto look = [this] {
        leases.set_health("local", health_of_machine(settings.state_dir));
      };
      co_await pool.run(std::move(look));
    }
    if (quotas.month_is_over()) {
      auto count = [this] {
        quotas.count_cpu_time();
      };
      co_await pool.run(std::move(count));
    }
    unsynced = unsynced || busy || clock.monotonic() - last_work < std::chrono::seconds(2);
    if (unsynced && ++ticks % kSyncSeconds == 0) {
      unsynced = busy;
      auto sync = [this] {
        sync_state(settings.state_dir);
      };
      co_await pool.run(std::move(sync));
    }
    if (session_tasks.running() > 0 || build_tasks.running() > 0 || kept.count() > 0) {
      last_work = clock.monotonic();
    } else if (settings.autostarted && clock.monotonic() - last_work >= settings.config.idle_exit) {
      log.info("nothing to do: ending");
      co_await shut_down();
      co_return;
    }
  }
}

aio::Task<void> Daemon::State::forget_what_is_old() {
  const Retention retention{settings.config.keep_builds, settings.config.keep_logs};
  asio::steady_timer timer(io);
  while (!stopping && retention != Retention{}) {
    auto forget = [this, &retention] {
      return forget_old(*db, *logs, retention, clock.wall());
    };
    try {
      const auto forgotten = co_await pool.run(std::move(forget));
      if (forgotten.builds + forgotten.logs > 0) {
        log.info(fmt::format(
            "forgot {} builds and {} logs that were old", forgotten.builds, forgotten.logs));
      }
    } catch (const std::exception& error) {
      log.warning(fmt::format("old builds and logs stay for now: {}", error.what()));
    }
    timer.expires_after(kForgetting);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

/// Lets what runs end, for as long as the configuration says; what waits is left to the next
/// daemon.
aio::Task<void> Daemon::State::stop_on_signal() {
  leases.drain();
  asio::steady_timer timer(io);
  const auto deadline = clock.monotonic() + settings.config.stop_wait;
  if (const auto running = leases.counts().running; running > 0) {
    log.info(fmt::format("{} builds run; waiting for them at most {} seconds",
                         running,
                         settings.config.stop_wait.count()));
  }
  while (!hurry && leases.counts().running > 0 && clock.monotonic() < deadline) {
    timer.expires_after(std::chrono::milliseconds(100));
    co_await timer.async_wait(asio::use_awaitable);
  }
  co_await shut_down();
}

aio::Task<void> Daemon::State::shut_down() {
  if (std::exchange(stopping, true)) {
    co_return;
  }
  boost::system::error_code ignored;
  acceptor.close(ignored);
  builds.leave_running();
  if (http) {
    http->stop();
  }
  session_tasks.cancel();
  build_tasks.cancel();
  asio::steady_timer timer(io);
  const auto deadline = clock.monotonic() + kStopPatience;
  while (session_tasks.running() + build_tasks.running() > 0 && clock.monotonic() < deadline) {
    timer.expires_after(std::chrono::milliseconds(20));
    co_await timer.async_wait(asio::use_awaitable);
  }
  io.stop();
}

Daemon::Daemon(DaemonSettings settings, ExecutorFactory make_executor, Log& log) {
  ::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  state_ = std::make_unique<State>(std::move(settings), make_executor, log);
}

Daemon::~Daemon() = default;

int Daemon::run() {
  auto& state = *state_;
  // Work of the daemon itself, which ends with it: not a session and not a build.
  aio::TaskGroup own(state.io.get_executor(), state.log);
  const auto strand = asio::any_io_executor(state.io.get_executor());
  own.spawn("accepting sessions", state.accept_sessions());
  own.spawn("watching for idleness", state.watch_idle());
  own.spawn("forgetting what is old", state.forget_what_is_old());
  if (state.http) {
    state.http->start();
    state.log.info("HTTP on " + state.http->address());
  }
  asio::signal_set signals(state.io, SIGTERM, SIGINT);
  signals.async_wait([&](boost::system::error_code error, int number) {
    if (!error) {
      state.log.info(fmt::format("signal {}: ending", number));
      own.spawn("ending", state.stop_on_signal());
      signals.async_wait(
          [&state](boost::system::error_code again, int) { state.hurry = state.hurry || !again; });
    }
  });
  if (state.settings.ready) {
    const char byte = '\n';
    [[maybe_unused]] const auto ignored = ::write(state.settings.ready.get(), &byte, 1);
    state.settings.ready.reset();
  }
  state.log.info(fmt::format("serving {} with {} cpus and {} MiB for builds",
                             state.settings.state_dir,
                             state.share.cpus,
                             state.share.memory_bytes >> 20));
  const unsigned threads = state.settings.threads != 0
                               ? state.settings.threads
                               : std::max(2U, std::thread::hardware_concurrency());
  std::vector<std::jthread> others;
  for (unsigned i = 1; i < threads; ++i) {
    others.emplace_back([&state] { state.io.run(); });
  }
  state.io.run();
  others.clear();
  state.pool.join();
  sync_state(state.settings.state_dir);
  return state.exit_status;
}

void Daemon::stop() {
  asio::post(state_->io, [this] { state_->build_tasks.spawn("ending", state_->shut_down()); });
}

} // namespace nixbuild::server
