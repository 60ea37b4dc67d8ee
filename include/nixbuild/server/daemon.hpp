#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/build/builder.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/store.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <functional>
#include <memory>
#include <string>

namespace nixbuild::server {

/// Makes the executor when the first build needs it. May block.
using ExecutorFactory =
    std::function<std::unique_ptr<sandbox::Executor>(boost::asio::any_io_executor)>;

struct DaemonSettings {
  std::string state_dir;
  Config config;
  bool autostarted = false; ///< ends by itself after `config.idle_exit` without work
  UniqueFd listener;        ///< a listening socket of a service manager; none: made in state_dir
  UniqueFd ready;           ///< one byte is written here once sessions can come
  unsigned threads = 0;     ///< of the event loop; 0: one a cpu
};

/// What one build gets and what all builds together may use, from the configuration and the
/// machine's size.
struct MachineShare {
  unsigned cpus = 1;
  std::uint64_t memory_bytes = kGiB;
  unsigned build_cpus = 1;
  std::uint64_t build_memory_bytes = kGiB;
};

[[nodiscard]] NIXBUILD_API MachineShare share_of(const Config& config,
                                                 unsigned machine_cpus,
                                                 std::uint64_t machine_memory_bytes);

/// The daemon: takes sessions over from front programs and serves them. Holds `daemon.lock` in the
/// state directory while it lives, so that it is the only writer of the store.
class NIXBUILD_API Daemon {
public:
  /// Opens everything. Errors: `daemon.running` (another one holds the lock), `daemon.socket`,
  /// those of the store's adapters. `log` outlives the daemon.
  Daemon(DaemonSettings settings, ExecutorFactory make_executor, Log& log);
  ~Daemon();

  /// Serves until SIGTERM, SIGINT, `stop`, or the idle time; then ends sessions, leaves builds to
  /// the next daemon, and returns the exit status.
  int run();
  /// From any thread.
  void stop();

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::server
