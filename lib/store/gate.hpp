#pragma once

#include <condition_variable>
#include <mutex>

namespace nixbuild::store {

/// Lets many through, or one alone; who waits to be alone is not overtaken for ever, as he may be
/// with std::shared_mutex.
class Gate {
public:
  void lock() {
    std::unique_lock guard(mutex_);
    ++waiting_;
    changed_.wait(guard, [&] { return inside_ == 0 && !alone_; });
    --waiting_;
    alone_ = true;
  }

  void unlock() {
    const std::lock_guard guard(mutex_);
    alone_ = false;
    changed_.notify_all();
  }

  void lock_shared() {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [&] { return !alone_ && waiting_ == 0; });
    ++inside_;
  }

  void unlock_shared() {
    const std::lock_guard guard(mutex_);
    if (--inside_ == 0) {
      changed_.notify_all();
    }
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned inside_ = 0;
  unsigned waiting_ = 0;
  bool alone_ = false;
};

} // namespace nixbuild::store
