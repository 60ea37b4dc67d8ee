#include "long_work.hpp"

#include <chrono>
#include <utility>

namespace nixbuild::server {

LongWork::Turn::~Turn() {
  if (work_) {
    {
      const std::lock_guard lock(work_->mutex_);
      work_->under_way_.erase(account_);
    }
    work_->changed_.notify();
  }
}

aio::Task<LongWork::Turn> LongWork::turn(store::AccountId account,
                                         std::function<void()> still_wanted) {
  constexpr std::chrono::milliseconds look_up{1000};
  for (;;) {
    const auto seen = changed_.count();
    bool mine = false;
    {
      const std::lock_guard lock(mutex_);
      mine = under_way_.insert(account).second;
    }
    if (mine) {
      co_return Turn(*this, account);
    }
    co_await changed_.wait(seen, look_up);
    if (still_wanted) {
      still_wanted();
    }
  }
}

} // namespace nixbuild::server
