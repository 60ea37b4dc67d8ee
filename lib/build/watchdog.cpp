#include "watchdog.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace nixbuild::build {

namespace {
constexpr std::chrono::milliseconds kWatchTick{100};
} // namespace

aio::Task<void> watch_over(std::shared_ptr<Watch> watch,
                           std::shared_ptr<BuildControl> control,
                           WatchLimits limits,
                           const Clock& clock) {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  while (!watch->ended) {
    timer.expires_after(kWatchTick);
    co_await timer.async_wait(boost::asio::use_awaitable);
    if (watch->ended) {
      co_return;
    }
    const auto now = clock.monotonic();
    if (control->cancelled()) {
      watch->stop(Stop::Cancelled);
    } else if (limits.timeout.count() > 0 && watch->timed &&
               now - watch->started >= limits.timeout) {
      watch->stop(Stop::Timeout);
    } else if (limits.silence.count() > 0 && watch->builder_running &&
               now - watch->last_output >= limits.silence) {
      watch->stop(Stop::Silence);
    } else if (!watch->builder_running && now - watch->last_output >= limits.lost) {
      watch->stop(Stop::Lost);
    }
  }
}

} // namespace nixbuild::build
