#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/sandbox/executor.hpp>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace nixbuild::server {

/// An executor that is made when the first build needs it, so that a daemon without a kernel or a
/// hypervisor still serves its store, and starts in milliseconds. A failure to make it fails that
/// build, and the next one tries again. Thread safe.
class NIXBUILD_API LateExecutor final : public sandbox::Executor {
public:
  /// `make` may block; it is called on `pool`, which outlives the executor.
  LateExecutor(std::function<std::unique_ptr<sandbox::Executor>()> make, aio::BlockingPool& pool);

  aio::Task<std::unique_ptr<sandbox::Execution>> start(sandbox::ExecutionPlan plan) override;
  aio::Task<std::unique_ptr<sandbox::Execution>>
  adopt(std::string id, std::size_t outputs, std::uint64_t log_offset) override;
  aio::Task<void> sweep(std::vector<std::string> kept) override;
  aio::Task<std::string> prepare() override;
  [[nodiscard]] std::string accelerator() const override;
  [[nodiscard]] sandbox::WallReport walls() const override;
  [[nodiscard]] bool offers_network() const override;

private:
  sandbox::Executor& made();

  std::function<std::unique_ptr<sandbox::Executor>()> make_;
  aio::BlockingPool& pool_;
  mutable std::mutex mutex_;
  std::unique_ptr<sandbox::Executor> real_;
};

} // namespace nixbuild::server
