#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/server/counters.hpp>
#include <nixbuild/server/loop_report.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/store.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The daemon's HTTP interface (docs/http.md): builds, logs, usage, metrics, and what changes them.
/// It listens on a Unix socket or on the loopback device unless the configuration says more, and it
/// knows who asks by tokens.
namespace nixbuild::server {

struct HttpLimits {
  std::size_t header_bytes = 16 * kKiB;
  std::size_t body_bytes = 64 * kKiB;
  std::size_t connections = 200;             ///< one more is answered 503 and closed
  std::chrono::milliseconds idle{60'000};    ///< between two requests
  std::chrono::milliseconds request{10'000}; ///< from a request's first byte to its last
  std::chrono::milliseconds stalled{60'000}; ///< a client that does not take its answer
  std::chrono::milliseconds log_poll{200};   ///< how often a followed log is looked at
};

struct HttpSettings {
  std::string listen;        ///< `unix:PATH`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; port 0: any
  bool allow_remote = false; ///< an address beyond the loopback device
  std::string tokens_file;   ///< may be missing: no tokens
  HttpLimits limits;
};

/// What builds are doing right now, for GET /metrics.
struct BuildLoad {
  std::uint64_t running = 0;
  std::uint64_t waiting = 0;
};

/// Whether machines work on this host, for GET /healthz and GET /metrics.
struct HostState {
  bool closed = false;      ///< none does: builds fail
  bool without_kvm = false; ///< KVM was used until it failed
  std::uint64_t faults = 0; ///< machines that ended by a fault of the host
};

/// Machines that were started, for GET /metrics.
struct MachineWalls {
  std::uint64_t machines = 0;
  std::uint64_t weaker = 0; ///< of them, those that lacked a wall
};

/// What the interface does through others. Each may be absent: then the answer is 501, or the
/// number is left out. Called on threads of the server's own pool; they may block and may throw
/// Error, which is answered by its reaction.
struct HttpHooks {
  /// Asks a build of that account to stop; false when it does not run (any more).
  std::function<bool(store::AccountId, std::int64_t build)> cancel;

  /// An account's settings, all as text.
  std::function<std::vector<std::pair<std::string, std::string>>(store::AccountId)> list_settings;
  /// Nothing when there is no such setting or it has no value.
  std::function<std::optional<std::string>(store::AccountId, std::string_view name)> get_setting;
  std::function<void(store::AccountId, std::string_view name, std::string_view value)> set_setting;
  std::function<void(store::AccountId, std::string_view name)> unset_setting;

  std::function<BuildLoad()> build_load;
  std::function<HostState()> host_state;
  /// How long a build's machine has run, by a clock that nobody sets; nothing when it has none.
  std::function<std::optional<std::chrono::microseconds>(store::AccountId, std::int64_t build)>
      running_for;
  /// How the daemon's own loops are doing, for GET /healthz and /metrics.
  std::function<std::vector<LoopReport>()> loops;
  std::function<MachineWalls()> machine_walls;
  /// Bytes that the store takes. Cheap: it is asked at every scrape.
  std::function<std::uint64_t()> stored_bytes;
};

/// All of it outlives the server.
struct HttpParts {
  store::Store& store;
  store::LogStore& logs;
  const Clock& clock;
  ServerCounters& counters;
  Log& log;
};

/// Takes connections from its start to its end. Blocking work runs on two threads of its own, so
/// that no client of it can keep a build or a session waiting.
class NIXBUILD_API HttpServer {
public:
  /// Listens already; connections are taken after `start`. Errors: `http.address` (not one of the
  /// forms, or a path that is too long), `http.remote` (beyond the loopback device without
  /// `allow_remote`), `http.listen` (the system refuses), `http.tokens` (the file is not private).
  HttpServer(boost::asio::any_io_executor executor,
             HttpSettings settings,
             const HttpParts& parts,
             HttpHooks hooks);
  /// The executor's loop no longer runs, or `join` has completed.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// Where it listens, in the form of `HttpSettings::listen`, with the port that was taken.
  [[nodiscard]] const std::string& address() const noexcept;

  /// Takes connections on a task of its own, until `stop`.
  void start();
  /// One connection, for whoever calls it again and again instead of `start`, on `strand`. Throws
  /// what the system says when it gives none (no descriptors are left); false after `stop`.
  aio::Task<bool> take_one();
  /// Where `take_one` has to run.
  [[nodiscard]] boost::asio::any_io_executor strand() const;
  /// Tasks that have not ended.
  [[nodiscard]] std::size_t running() const noexcept;
  /// Takes no more connections and ends the open ones. From any thread.
  void stop();
  /// Completes when no connection is left after `stop`.
  aio::Task<void> join();
  /// Open ones now.
  [[nodiscard]] std::size_t connections() const noexcept;

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::server
