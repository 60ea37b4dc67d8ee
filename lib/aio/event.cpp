#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <mutex>
#include <utility>
#include <vector>

namespace nixbuild::aio {

namespace asio = boost::asio;

struct Event::State {
  mutable std::mutex mutex;
  std::uint64_t count = 0;
  std::vector<std::shared_ptr<asio::steady_timer>> waiters;

  /// False when the count has moved on already.
  bool enlist(std::uint64_t seen, const std::shared_ptr<asio::steady_timer>& timer) {
    const std::lock_guard lock(mutex);
    if (count != seen) {
      return false;
    }
    waiters.push_back(timer);
    return true;
  }

  /// True when the count differs from `seen`; strikes the timer off the list.
  bool settle(std::uint64_t seen, const std::shared_ptr<asio::steady_timer>& timer) {
    const std::lock_guard lock(mutex);
    std::erase(waiters, timer);
    return count != seen;
  }
};

Event::Event() : state_(std::make_shared<State>()) {}

Event::~Event() = default;

void Event::notify() {
  std::vector<std::shared_ptr<asio::steady_timer>> woken;
  {
    const std::lock_guard lock(state_->mutex);
    ++state_->count;
    woken.swap(state_->waiters);
  }
  for (auto& timer : woken) {
    // On the waiter's own executor, so after it has gone to sleep.
    const auto executor = timer->get_executor();
    asio::post(executor, [timer = std::move(timer)] { timer->cancel(); });
  }
}

std::uint64_t Event::count() const {
  const std::lock_guard lock(state_->mutex);
  return state_->count;
}

Task<bool> Event::wait(std::uint64_t seen, std::chrono::milliseconds patience) {
  auto state = state_;
  auto timer = std::make_shared<asio::steady_timer>(co_await asio::this_coro::executor);
  if (patience.count() > 0) {
    timer->expires_after(patience);
  } else {
    timer->expires_at(asio::steady_timer::time_point::max());
  }
  if (!state->enlist(seen, timer)) {
    co_return true;
  }
  constexpr auto await = asio::as_tuple(asio::use_awaitable);
  [[maybe_unused]] auto [error] = co_await timer->async_wait(await);
  const bool changed = state->settle(seen, timer);
  const auto cancellation = co_await asio::this_coro::cancellation_state;
  if (cancellation.cancelled() != asio::cancellation_type::none) {
    throw Error(Reaction::Cancelled, "event.cancelled", "a wait was cancelled");
  }
  co_return changed;
}

} // namespace nixbuild::aio
