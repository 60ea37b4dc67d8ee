#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/build/builder.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/loop_report.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/store.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nixbuild::server {

/// Makes the executor when the first build needs it. May block.
using ExecutorFactory =
    std::function<std::unique_ptr<sandbox::Executor>(boost::asio::any_io_executor)>;

/// How often the daemon's own loops take a turn, and how long its end takes.
struct LoopPace {
  std::chrono::milliseconds tick{1'000};    ///< ends what nobody needs any more
  std::chrono::milliseconds sync{5'000};    ///< while something is written
  std::chrono::milliseconds machine{2'000}; ///< looks at its health while builds run
  std::chrono::milliseconds usage{1'000};   ///< whether a month is over
  std::chrono::milliseconds forget{std::chrono::hours(1)};
  /// A loop whose turns have failed for so long, for no reason that the next daemon would meet as
  /// well, ends this one.
  std::chrono::milliseconds patience{std::chrono::minutes(10)};
  /// How long sessions and builds have to leave at the end, once nothing blocks them any more; and
  /// how long what blocks them (a database that somebody else holds) is waited for.
  std::chrono::milliseconds stop_patience{std::chrono::seconds(10)};
  std::chrono::milliseconds blocked_patience{std::chrono::seconds(60)};
};

/// What a test puts in the place of the daemon's own.
struct DaemonPorts {
  const Clock* clock = nullptr; ///< outlives the daemon; null: the machine's
  /// Each is given what was opened and puts something around it.
  std::function<std::unique_ptr<store::MetadataDb>(std::unique_ptr<store::MetadataDb>)> metadata;
  std::function<std::unique_ptr<store::SegmentStore>(std::unique_ptr<store::SegmentStore>)>
      segments;
  std::function<std::unique_ptr<store::LogStore>(std::unique_ptr<store::LogStore>)> logs;
};

struct DaemonSettings {
  std::string state_dir;
  Config config;
  bool autostarted = false; ///< ends by itself after `config.idle_exit` without work
  UniqueFd listener;        ///< a listening socket of a service manager; none: made in state_dir
  UniqueFd ready;           ///< one byte is written here once sessions can come
  unsigned threads = 0;     ///< of the event loop; 0: one a cpu
  LoopPace pace;
  DaemonPorts ports;
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
  /// the next daemon, and returns the exit status: 70 when one of its loops was given up.
  int run();
  /// After `run`: threads are still blocked (a disk that does not answer). What they use is left in
  /// place, and the program should end by `_exit`.
  [[nodiscard]] bool stuck() const noexcept;
  /// From any thread, while it runs.
  void stop();
  /// How its own loops are doing. From any thread.
  [[nodiscard]] std::vector<LoopReport> loops() const;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::server
