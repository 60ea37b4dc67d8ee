#include <nixbuild/base/error.hpp>
#include <nixbuild/server/late_executor.hpp>

#include <utility>

namespace nixbuild::server {

using sandbox::HostVerdict;

LateExecutor::LateExecutor(std::function<std::unique_ptr<sandbox::Executor>()> make,
                           aio::BlockingPool& pool,
                           const Clock& clock,
                           Told told)
    : make_(std::move(make)), pool_(pool), clock_(clock), told_(std::move(told)) {}

/// The one that is there; null: one is to be made. Error `sandbox.host` while closed.
LateExecutor::Shared LateExecutor::ready(For whom) const {
  const std::lock_guard lock(mutex_);
  if (whom == For::NewBuilds && closed_) {
    if (clock_.monotonic() < closed_until_) {
      throw Error(Reaction::Unsupported, "sandbox.host", *closed_);
    }
    return nullptr;
  }
  return real_;
}

LateExecutor::Shared LateExecutor::make(For whom) {
  const std::lock_guard making(making_);
  if (auto there = ready(whom)) {
    return there;
  }
  Shared fresh;
  try {
    fresh = make_();
  } catch (const Error& error) {
    if (sandbox::is_host_fault(error)) {
      {
        const std::lock_guard lock(mutex_);
        troubled_ = true;
      }
      tell({HostVerdict::Use::Nothing, error.message()});
    }
    throw;
  }
  std::optional<std::string> was_closed;
  {
    const std::lock_guard lock(mutex_);
    was_closed = whom == For::NewBuilds ? closed_ : std::nullopt;
  }
  if (was_closed) {
    const auto verdict = fresh->host_failed(*was_closed);
    if (verdict.use == HostVerdict::Use::Nothing) {
      close(verdict.reason);
      throw Error(Reaction::Unsupported, "sandbox.host", verdict.reason);
    }
  }
  bool works_again = false;
  {
    const std::lock_guard lock(mutex_);
    real_ = fresh;
    if (whom == For::NewBuilds) {
      closed_.reset();
      works_again = std::exchange(troubled_, false);
    }
  }
  if (works_again && told_.works) {
    told_.works();
  }
  return fresh;
}

void LateExecutor::close(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    closed_ = reason;
    closed_until_ = clock_.monotonic() + kClosedFor;
    troubled_ = true;
    worked_.reset();
  }
  tell({HostVerdict::Use::Nothing, reason});
}

void LateExecutor::tell(const HostVerdict& verdict) const {
  if (told_.fault) {
    told_.fault(verdict);
  }
}

HostVerdict LateExecutor::host_failed(const std::string& reason) {
  const std::lock_guard making(making_);
  Shared real;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) {
      return {HostVerdict::Use::Nothing, *closed_};
    }
    if (worked_ && clock_.monotonic() - *worked_ < kTrusted) {
      return {HostVerdict::Use::AsBefore, reason};
    }
    real = real_;
  }
  if (!real) {
    return {HostVerdict::Use::Nothing, reason}; // could not even be made, which was told
  }
  auto verdict = real->host_failed(reason);
  if (verdict.use == HostVerdict::Use::Nothing) {
    close(verdict.reason);
    return verdict;
  }
  {
    const std::lock_guard lock(mutex_);
    worked_ = clock_.monotonic();
  }
  tell(verdict);
  return verdict;
}

aio::Task<LateExecutor::Shared> LateExecutor::made(For whom) {
  auto work = [this, whom] {
    auto there = ready(whom);
    return there ? there : make(whom);
  };
  co_return co_await pool_.run(std::move(work));
}

aio::Task<std::string> LateExecutor::prepare() {
  const Shared real = co_await made(For::NewBuilds);
  co_return co_await real->prepare();
}

aio::Task<std::unique_ptr<sandbox::Execution>> LateExecutor::start(sandbox::ExecutionPlan plan) {
  const Shared real = co_await made(For::NewBuilds);
  co_return co_await real->start(std::move(plan));
}

aio::Task<std::unique_ptr<sandbox::Execution>>
LateExecutor::adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) {
  const Shared real = co_await made(For::RunningOnes);
  co_return co_await real->adopt(std::move(id), outputs, log_offset);
}

aio::Task<void> LateExecutor::sweep(std::vector<std::string> kept) {
  const Shared real = co_await made(For::RunningOnes);
  co_await real->sweep(std::move(kept));
}

std::string LateExecutor::accelerator() const {
  const std::lock_guard lock(mutex_);
  return real_ ? real_->accelerator() : std::string();
}

sandbox::WallReport LateExecutor::walls() const {
  const std::lock_guard lock(mutex_);
  return real_ ? real_->walls() : sandbox::WallReport{};
}

bool LateExecutor::offers_network() const {
  const std::lock_guard lock(mutex_);
  return real_ && real_->offers_network();
}

bool LateExecutor::offers_disk() const {
  const std::lock_guard lock(mutex_);
  return real_ && real_->offers_disk();
}

} // namespace nixbuild::server
