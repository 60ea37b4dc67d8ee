#include <nixbuild/server/late_executor.hpp>

namespace nixbuild::server {

LateExecutor::LateExecutor(std::function<std::unique_ptr<sandbox::Executor>()> make,
                           aio::BlockingPool& pool)
    : make_(std::move(make)), pool_(pool) {}

sandbox::Executor& LateExecutor::made() {
  const std::lock_guard lock(mutex_);
  if (!real_) {
    real_ = make_();
  }
  return *real_;
}

aio::Task<std::string> LateExecutor::prepare() {
  auto work = [this] {
    return &made();
  };
  sandbox::Executor* real = co_await pool_.run(std::move(work));
  co_return co_await real->prepare();
}

aio::Task<std::unique_ptr<sandbox::Execution>> LateExecutor::start(sandbox::ExecutionPlan plan) {
  auto work = [this] {
    return &made();
  };
  sandbox::Executor* real = co_await pool_.run(std::move(work));
  co_return co_await real->start(std::move(plan));
}

aio::Task<std::unique_ptr<sandbox::Execution>>
LateExecutor::adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) {
  auto work = [this] {
    return &made();
  };
  sandbox::Executor* real = co_await pool_.run(std::move(work));
  co_return co_await real->adopt(std::move(id), outputs, log_offset);
}

aio::Task<void> LateExecutor::sweep(std::vector<std::string> kept) {
  auto work = [this] {
    return &made();
  };
  sandbox::Executor* real = co_await pool_.run(std::move(work));
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

} // namespace nixbuild::server
