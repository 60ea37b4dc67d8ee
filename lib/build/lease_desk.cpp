#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/build/lease_desk.hpp>

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>

namespace nixbuild::build {

namespace {
constexpr std::chrono::milliseconds kGiveUpPoll{250};
} // namespace

using Decision = std::variant<scheduler::LeaseGranted, scheduler::LeaseRefused>;

struct LeaseDeskState {
  std::mutex mutex;
  std::unique_ptr<scheduler::ComputeEngine> engine;
  scheduler::LeaseId last_id = 0;
  std::map<scheduler::LeaseId, Decision> decided;
  aio::Event changed;

  void collect() {
    auto decisions = engine->take_decisions();
    for (auto& grant : decisions.granted) {
      decided.insert_or_assign(grant.id, Decision(grant));
    }
    for (auto& refusal : decisions.refused) {
      decided.insert_or_assign(refusal.id, Decision(refusal));
    }
  }

  scheduler::LeaseId request(scheduler::LeaseRequest wanted) {
    const std::lock_guard lock(mutex);
    wanted.id = ++last_id;
    const auto id = wanted.id;
    engine->request(std::move(wanted));
    collect();
    return id;
  }

  void release(scheduler::LeaseId id) {
    {
      const std::lock_guard lock(mutex);
      decided.erase(id);
      engine->release(id);
      collect();
    }
    changed.notify();
  }

  std::optional<Decision> take(scheduler::LeaseId id) {
    const std::lock_guard lock(mutex);
    const auto found = decided.find(id);
    if (found == decided.end()) {
      return std::nullopt;
    }
    Decision decision = std::move(found->second);
    decided.erase(found);
    return decision;
  }
};

ComputeLease::~ComputeLease() {
  if (desk_) {
    desk_->release(id_);
  }
}

ComputeLease::ComputeLease(ComputeLease&& other) noexcept
    : desk_(std::move(other.desk_)), id_(other.id_), node_(std::move(other.node_)) {}

ComputeLease& ComputeLease::operator=(ComputeLease&& other) noexcept {
  if (this != &other) {
    if (desk_) {
      desk_->release(id_);
    }
    desk_ = std::move(other.desk_);
    id_ = other.id_;
    node_ = std::move(other.node_);
  }
  return *this;
}

LeaseDesk::LeaseDesk(std::unique_ptr<scheduler::ComputeEngine> engine)
    : state_(std::make_shared<LeaseDeskState>()) {
  state_->engine = std::move(engine);
}

LeaseDesk::~LeaseDesk() = default;

aio::Task<ComputeLease> LeaseDesk::acquire(scheduler::LeaseRequest request,
                                           std::function<bool()> give_up) {
  auto state = state_;
  ComputeLease lease;
  lease.desk_ = state;
  lease.id_ = state->request(std::move(request));
  for (;;) {
    const auto seen = state->changed.count();
    if (auto decision = state->take(lease.id_)) {
      if (auto* refusal = std::get_if<scheduler::LeaseRefused>(&*decision)) {
        throw Error(Reaction::Unsupported, refusal->code, refusal->message);
      }
      lease.node_ = std::get<scheduler::LeaseGranted>(*decision).node;
      co_return lease;
    }
    if (give_up()) {
      throw Error(
          Reaction::Cancelled, "build.cancelled", "the build was cancelled while it waited");
    }
    co_await state->changed.wait(seen, kGiveUpPoll);
  }
}

} // namespace nixbuild::build
