#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/server/loop_report.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nixbuild::server {

/// What the daemon does for itself all the time: taking sessions and connections, syncing, looking
/// at the machine, forgetting. No such loop ends by an exception: it is logged as an error, and the
/// next turn comes after a pause. Where turn after turn fails for minutes, a process that begins
/// anew may do better, and the daemon is told to end. Thread safe.
class OwnLoops {
public:
  struct Settings {
    std::chrono::milliseconds first_pause{100}; ///< after a failure; twice as long after each more
    std::chrono::milliseconds longest_pause{5'000};
    /// Without one good turn for so long, the daemon is given up; zero: never.
    std::chrono::milliseconds patience{std::chrono::minutes(10)};
    /// And not before so many failures.
    std::uint64_t most_failures = 5;
  };

  /// One turn; false: the loop has come to its end.
  using Turn = std::function<aio::Task<bool>()>;
  /// Told once, on the loop's strand, why the daemon should end.
  using GiveUp = std::function<void(const std::string& why)>;

  /// `log` outlives the loops.
  OwnLoops(boost::asio::any_io_executor executor, Log& log, Settings settings, GiveUp give_up);
  ~OwnLoops();
  OwnLoops(const OwnLoops&) = delete;
  OwnLoops& operator=(const OwnLoops&) = delete;

  /// Begins a loop. `late_after`: how long it may be without a good turn; zero: for ever, because
  /// it waits for others. On a strand of its own unless `executor` is given.
  void run(std::string name, std::chrono::milliseconds late_after, Turn turn);
  void run(std::string name,
           std::chrono::milliseconds late_after,
           Turn turn,
           boost::asio::any_io_executor executor);

  /// Ends them: those that wait are cancelled. Later failures are not told.
  void stop();
  [[nodiscard]] std::size_t running() const;
  /// In the order of their beginnings.
  [[nodiscard]] std::vector<LoopReport> report() const;

private:
  struct Loop;
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::server
