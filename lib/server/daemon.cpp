#include "builder_settings.hpp"
#include "daemon_state.hpp"
#include "http_hooks.hpp"
#include "machine_health.hpp"
#include "own_key.hpp"
#include "session_times.hpp"
#include "state_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/admin.hpp>
#include <nixbuild/server/recovery.hpp>
#include <nixbuild/server/reported_status.hpp>
#include <nixbuild/server/serve_session.hpp>
#include <nixbuild/server/session_caller.hpp>
#include <nixbuild/server/worker_session.hpp>
#include <nixbuild/store/files.hpp>
#include <nixbuild/store/sqlite.hpp>

#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kBlockingThreads = 8;
constexpr std::size_t kDoorThreads = 8;
constexpr std::size_t kLongThreads = 2;
constexpr int kHandoffSeconds = 10;
/// Each of the daemon's own loops that block has a thread, whatever keeps the sessions' threads.
constexpr std::size_t kOwnThreads = 4;

/// Nobody waits for the disk at a registration; a loop of its own syncs every few seconds, and
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

/// What is kept is nobody's but the operator's, also where an earlier version left it open.
UniqueFd open_state_folder(const std::string& state_dir, Log& log) {
  make_state_folder(state_dir);
  if (narrow_state_folder(state_dir)) {
    log.warning(state_dir + " was open to all users of this machine: it is closed now");
  }
  return lock_state_folder(state_dir);
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

OwnLoops::Settings lasting(std::chrono::milliseconds patience) {
  OwnLoops::Settings settings;
  settings.patience = patience;
  return settings;
}

/// A list of keys that cannot be written locks nobody out who is on it already.
void publish_keys_at_start(AccountDesk& accounts, Log& log) {
  try {
    accounts.publish_keys();
  } catch (const Error& error) {
    log.error(error.what());
  }
}

/// What a test has put around a port.
template <class Port>
std::unique_ptr<Port> with(const std::function<std::unique_ptr<Port>(std::unique_ptr<Port>)>& wrap,
                           std::unique_ptr<Port> port) {
  return wrap ? wrap(std::move(port)) : std::move(port);
}

} // namespace

Daemon::State::State(DaemonSettings given, const ExecutorFactory& make_executor, Log& l)
    : settings(std::move(given)), log(l), lock(open_state_folder(settings.state_dir, log)),
      share(share_of(settings.config, std::thread::hardware_concurrency(), machine_memory())),
      pool(kBlockingThreads), door_pool(kDoorThreads), long_work(kLongThreads),
      own_pool(kOwnThreads),
      clock(settings.ports.clock != nullptr ? *settings.ports.clock : system_clock),
      signing_key(load_signing_key(settings.state_dir)),
      db(with(
          settings.ports.metadata,
          store::open_sqlite_metadata(settings.state_dir + "/metadata.sqlite", lazy_database()))),
      segments(with(settings.ports.segments,
                    store::open_file_segments(settings.state_dir + "/store", lazy_segments()))),
      logs(with(settings.ports.logs, store::open_file_logs(settings.state_dir + "/logs"))),
      store(*db, *segments, clock, model::StoreDir(settings.config.store_dir)),
      accounts(*db, clock, desk_settings(settings)), faults(settings.state_dir, clock, log),
      executor([this, make_executor] { return make_executor(io.get_executor()); },
               pool,
               clock,
               teller_of(faults)),
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
      parts{store, *logs, builds, pool, log, clock, &accounts, &leases, &kept},
      session_book({settings.config.account_sessions, settings.config.key_sessions}),
      accept_strand(asio::make_strand(io)), acceptor(accept_strand), last_work(clock.monotonic()),
      loops(io.get_executor(),
            log,
            lasting(settings.pace.patience),
            [this](const std::string& why) { give_up(why); }),
      ending(io.get_executor(), log, lasting({}), nullptr) {
  db->ensure_account("default");
  recover_state(settings.state_dir, store, *segments, log);
  publish_keys_at_start(accounts, log);
  learn_from_history();
  quotas.tell_all();
  parts.loops = &loops;
  parts.long_work = &long_work;
  auto listener =
      settings.listener ? std::move(settings.listener) : listen_for_handoffs(settings.state_dir);
  acceptor.assign(asio::local::stream_protocol(), listener.release());
  if (!settings.config.http_listen.empty()) {
    const HttpParts http_parts{store, *logs, clock, counters, log};
    auto hooks = http_hooks({*db, accounts, builds, leases, faults, executor});
    hooks.running_for = [this](store::AccountId account,
                               std::int64_t build) -> std::optional<std::chrono::microseconds> {
      const auto since = builds.running_since(account, build);
      return since ? std::optional(std::chrono::duration_cast<std::chrono::microseconds>(
                         clock.monotonic() - *since))
                   : std::nullopt;
    };
    hooks.loops = [this] {
      return loops.report();
    };
    http = std::make_unique<HttpServer>(io.get_executor(),
                                        http_settings(settings.state_dir, settings.config),
                                        http_parts,
                                        std::move(hooks));
  }
  take_up_builds();
}

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
    if (stopping) {
      return; // the socket closes
    }
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
  SessionLimits limits = session_limits();
  limits.greeting = limits.stalled; // there is nobody at the door who waits behind it
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

aio::Task<bool> Daemon::State::accept_session() {
  auto socket = co_await acceptor.async_accept(asio::use_awaitable);
  auto peer = std::make_shared<UniqueFd>(socket.release());
  // Back to blocking: the hand-over itself is read on the blocking pool.
  const int flags = ::fcntl(peer->get(), F_GETFL);
  ::fcntl(peer->get(), F_SETFL, flags & ~O_NONBLOCK);
  ::fcntl(peer->get(), F_SETFD, FD_CLOEXEC);
  if (stopping) {
    co_return false; // it is handed to the next daemon
  }
  last_work = clock.monotonic();
  session_tasks.spawn("session", serve(std::move(peer)));
  co_return true;
}

aio::Task<void> Daemon::State::serve(std::shared_ptr<UniqueFd> peer) {
  auto receive = [peer] {
    return receive_handoff(*peer, kHandoffSeconds);
  };
  auto received = co_await door_pool.run(std::move(receive));
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

SessionLimits Daemon::State::session_limits() const {
  SessionLimits limits;
  limits.greeting = settings.config.session_greeting;
  limits.idle = settings.config.session_idle;
  limits.stalled = settings.config.session_stalled;
  limits.deaf = settings.config.session_deaf;
  return limits;
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
  SessionBook::Place place;
  std::string refusal;
  try {
    place = session_book.enter(handoff);
  } catch (const Error& error) {
    refusal = fmt::format("error: {}\n", error.what());
  }
  if (!refusal.empty()) {
    co_await err->write_all(bytes_of(refusal), std::chrono::seconds(2));
    co_return exit_code_of(Reaction::Busy);
  }
  if (handoff.kind == HandoffKind::Admin) {
    co_return co_await run_admin_command(parts, std::move(handoff), in, out, err);
  }
  if (leases.refuses()) {
    // Before the greeting is the one moment when a client goes on to its next machine.
    std::string line = "error: this builder takes no new work: it is being stopped or drained\n";
    co_await err->write_all(bytes_of(line), std::chrono::seconds(2));
    co_return exit_code_of(Reaction::Busy);
  }
  auto identify = [this, &handoff] {
    return caller_of(handoff);
  };
  std::optional<SessionCaller> identified;
  try {
    identified = co_await door_pool.run(std::move(identify));
  } catch (const Error& error) {
    refusal = fmt::format("error: {}\n", error.what());
  }
  if (!refusal.empty()) {
    co_await err->write_all(bytes_of(refusal), std::chrono::seconds(2));
    co_return 3;
  }
  const SessionLimits limits = session_limits();
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

Daemon::Daemon(DaemonSettings settings, ExecutorFactory make_executor, Log& log) {
  ::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  state_ = std::make_unique<State>(std::move(settings), make_executor, log);
}

Daemon::~Daemon() {
  if (state_->stuck) {
    // Threads still use it.
    static_cast<void>(state_.release());
  }
}

} // namespace nixbuild::server
