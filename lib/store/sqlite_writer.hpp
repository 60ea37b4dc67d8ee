#pragma once

#include "sqlite_connection.hpp"

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

namespace nixbuild::store {

/// The one connection that writes. Whoever comes while nobody writes does it on its own thread, so
/// that a lone caller never waits for another thread to wake up; what callers ask for while a
/// commit is under way goes into the next commit together, which one of them makes. Each caller's
/// part succeeds or fails by itself.
class Writer {
public:
  explicit Writer(std::unique_ptr<Connection> connection);
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  /// Runs `work` in a transaction, on this thread or on that of another caller; returns when it is
  /// committed, throws what it threw, or what made the commit fail.
  void write(const std::function<void(Connection&)>& work);

private:
  struct Job {
    const std::function<void(Connection&)>* work = nullptr;
    std::exception_ptr error;
    bool done = false;
  };

  void commit_group(const std::deque<Job*>& group);
  void run_part(Job& job);

  std::unique_ptr<Connection> connection_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job*> queue_;
  bool writing_ = false; ///< somebody is committing a group
};

} // namespace nixbuild::store
