#pragma once

#include <nixbuild/aio/event.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace nixbuild::aio {

/// Threads for work that blocks (disk, database). Outlives every coroutine that uses it.
class BlockingPool {
  /// A cancellation that reached Asio's coroutine on the pool's thread would be thrown there, past
  /// everyone who could catch it.
  static auto uncancelled() {
    return boost::asio::bind_cancellation_slot(boost::asio::cancellation_slot(),
                                               boost::asio::use_awaitable);
  }

public:
  explicit BlockingPool(std::size_t threads) : pool_(threads) {}

  /// Runs `work` on one of the threads and comes back to the caller's executor with its result or
  /// its exception. Neither the work nor the wait for it can be cancelled; a caller that was
  /// cancelled meanwhile hears of it at its next wait. Name the callable before awaiting
  /// (`auto work = …; co_await pool.run(std::move(work));`): g++ 12 miscompiles a capturing lambda
  /// that is a temporary of an expression with co_await.
  template <class Work>
  Task<std::invoke_result_t<Work&>> run(Work work) {
    using Result = std::invoke_result_t<Work&>;
    // Counted from here on: what waits for a thread is work, too.
    Counted counted(busy_);
    if constexpr (std::is_void_v<Result>) {
      Task<void> body = call(std::move(work), std::move(counted));
      co_await boost::asio::co_spawn(pool_.get_executor(), std::move(body), uncancelled());
    } else {
      // Asio wants results that can be made from nothing, hence the optional.
      Task<std::optional<Result>> body = call_for<Result>(std::move(work), std::move(counted));
      std::optional<Result> result =
          co_await boost::asio::co_spawn(pool_.get_executor(), std::move(body), uncancelled());
      co_return std::move(*result);
    }
  }

  /// Work that was handed in and is waited for later. Shared with the thread that does it, so that
  /// nobody has to wait.
  class Pending {
  public:
    /// Completes with the work; rethrows what it threw.
    Task<void> wait() {
      for (;;) {
        const auto seen = done_.count();
        if (ended_.load()) {
          if (failure_) {
            std::rethrow_exception(failure_);
          }
          co_return;
        }
        co_await done_.wait(seen);
      }
    }

  private:
    friend class BlockingPool;
    Event done_;
    std::atomic<bool> ended_{false};
    std::exception_ptr failure_;
  };

  /// Starts `work` and comes back at once. It must own what it uses: the caller may be gone before
  /// it runs.
  template <class Work>
  [[nodiscard]] std::shared_ptr<Pending> start(Work work) {
    auto pending = std::make_shared<Pending>();
    boost::asio::post(pool_, [pending, work = std::move(work), counted = Counted(busy_)]() mutable {
      try {
        work();
      } catch (...) {
        pending->failure_ = std::current_exception();
      }
      pending->ended_.store(true);
      pending->done_.notify();
    });
    return pending;
  }

  /// What was handed in and is not done yet.
  [[nodiscard]] std::size_t busy() const noexcept { return busy_->load(); }

  /// Waits for the work that runs; nothing may be handed in afterwards.
  void join() { pool_.join(); }

private:
  using Count = std::shared_ptr<std::atomic<std::size_t>>;

  /// One piece of work, while it exists.
  class Counted {
  public:
    explicit Counted(Count count) : count_(std::move(count)) { count_->fetch_add(1); }

    Counted(Counted&&) noexcept = default;
    Counted& operator=(Counted&&) = delete;

    ~Counted() {
      if (count_) {
        count_->fetch_sub(1);
      }
    }

  private:
    Count count_;
  };

  template <class Work>
  static Task<void> call(Work work, [[maybe_unused]] Counted counted) {
    work();
    co_return;
  }

  template <class Result, class Work>
  static Task<std::optional<Result>> call_for(Work work, [[maybe_unused]] Counted counted) {
    std::optional<Result> result(work());
    co_return result;
  }

  Count busy_ = std::make_shared<std::atomic<std::size_t>>(0);
  boost::asio::thread_pool pool_;
};

} // namespace nixbuild::aio
