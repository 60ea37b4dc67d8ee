#pragma once

#include "sqlite_connection.hpp"

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace nixbuild::store {

/// The one thread that writes. What callers ask for while a commit is under way goes into the next
/// commit together; each caller's part succeeds or fails by itself.
class Writer {
public:
  explicit Writer(std::unique_ptr<Connection> connection);
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  /// Runs `work` in a transaction on the writing thread; returns when it is committed, throws what
  /// it threw, or what made the commit fail.
  void write(const std::function<void(Connection&)>& work);

private:
  struct Job {
    const std::function<void(Connection&)>* work = nullptr;
    std::exception_ptr error;
    bool done = false;
  };

  void run();
  void commit_group(const std::deque<Job*>& group);
  void run_part(Job& job);

  std::unique_ptr<Connection> connection_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable done_;
  std::deque<Job*> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

} // namespace nixbuild::store
