#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/log.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <cstddef>
#include <memory>
#include <string>

namespace nixbuild::aio {

/// Owns tasks that nobody awaits: each failure is logged under the task's name, `join` waits for
/// all. Thread safe.
class NIXBUILD_API TaskGroup {
public:
  /// `log` outlives the group.
  TaskGroup(boost::asio::any_io_executor executor, Log& log);
  ~TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  /// Starts `task` on a strand of its own, or on `executor` where one is given.
  void spawn(std::string name, Task<void> task);
  void spawn(std::string name, Task<void> task, boost::asio::any_io_executor executor);

  /// Asks every running task to stop (terminal cancellation).
  void cancel();
  [[nodiscard]] std::size_t running() const;
  /// Completes when no task runs any more.
  Task<void> join();

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace nixbuild::aio
