#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/scheduler/compute_engine.hpp>

#include <functional>
#include <memory>
#include <string>

namespace nixbuild::build {

/// A granted piece of machine capacity; given back when destroyed. Thread safe.
class NIXBUILD_API ComputeLease {
public:
  ComputeLease() = default;
  ~ComputeLease();
  ComputeLease(ComputeLease&&) noexcept;
  ComputeLease& operator=(ComputeLease&&) noexcept;

  [[nodiscard]] const std::string& node() const noexcept { return node_; }

private:
  friend class LeaseDesk;
  std::shared_ptr<struct LeaseDeskState> desk_;
  scheduler::LeaseId id_ = 0;
  std::string node_;
};

/// Lets coroutines of any strand ask one ComputeEngine for capacity. Thread safe.
class NIXBUILD_API LeaseDesk {
public:
  explicit LeaseDesk(std::unique_ptr<scheduler::ComputeEngine> engine);
  ~LeaseDesk();

  /// Waits until granted; `request.id` is ignored. Errors: the engine's refusal as Unsupported
  /// with its code, and `build.cancelled` once `give_up` (asked a few times a second) says so. The
  /// request is then withdrawn.
  aio::Task<ComputeLease> acquire(scheduler::LeaseRequest request, std::function<bool()> give_up);

private:
  std::shared_ptr<LeaseDeskState> state_;
};

} // namespace nixbuild::build
