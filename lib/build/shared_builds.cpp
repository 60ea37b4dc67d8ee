#include "steps.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/build/shared_builds.hpp>

#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

namespace nixbuild::build {

struct SharedBuild {
  store::AccountId account;
  Hash key;            ///< meaningless while `listed` is false
  bool listed = false; ///< others can find it
  std::shared_ptr<LogFeed> feed = std::make_shared<LogFeed>();
  std::shared_ptr<BuildControl> control = std::make_shared<BuildControl>();
  std::atomic<std::int64_t> number{0};
  /// Keeps inputs and outputs while anybody is attached, who takes leases of his own meanwhile.
  std::shared_ptr<BuildInputs> inputs;

  // Set once, before anybody attaches; the others under the lock of SharedBuilds::State.
  std::function<void(const std::shared_ptr<SharedBuild>&)> leave; ///< none: nothing to leave
  unsigned askers = 0;
  aio::Event change;         ///< somebody arrived, or the build is not wanted any more
  std::uint64_t changes = 0; ///< counts arrivals, so that a time of grace knows its own
  KeepRunning keep = KeepRunning::Abort;
  std::chrono::seconds grace{0};

  std::mutex mutex;
  std::optional<model::BuildResult> result;
  std::exception_ptr failure;
  bool ended = false;
  aio::Event end;

  void arrive() {
    ++askers;
    ++changes;
    change.notify();
  }

  void cancel() {
    control->cancel();
    change.notify();
  }

  void leave_running() {
    control->leave_running();
    change.notify();
  }

  /// The strongest choice of all askers so far counts.
  void add_choice(const BuildPolicy& policy) {
    keep = std::max(keep, policy.keep);
    if (policy.keep == KeepRunning::Grace) {
      grace = std::max(grace, policy.grace);
    }
    if (!policy.share_results) {
      control->keep_private();
    }
  }

  void finish(std::optional<model::BuildResult> with, std::exception_ptr error) {
    {
      const std::lock_guard lock(mutex);
      result = std::move(with);
      failure = std::move(error);
      ended = true;
    }
    feed->close();
    end.notify();
  }
};

namespace {

/// How much later than anything else a build comes that nobody waits for.
constexpr int kLater = 1'000'000;
constexpr std::uint32_t kMostRepeats = 100;

/// Whoever spawns a task holds a lock that the task takes: it must not begin inside that call.
aio::Task<void> step_aside() {
  const auto here = co_await boost::asio::this_coro::executor;
  co_await boost::asio::post(here, boost::asio::use_awaitable);
}

} // namespace

struct SharedBuilds::State : std::enable_shared_from_this<State> {
  Builder& builder;
  aio::TaskGroup& tasks;
  SharedBuildsSettings settings;
  mutable std::mutex mutex;
  std::map<Hash, std::shared_ptr<SharedBuild>> listed;
  std::vector<std::shared_ptr<SharedBuild>> all; ///< that run
  bool closed = false;                           ///< nobody's leaving has a consequence any more

  State(Builder& b, aio::TaskGroup& t, SharedBuildsSettings s)
      : builder(b), tasks(t), settings(s) {}

  /// The build that others may join; one that is being cancelled is on its way out.
  std::shared_ptr<SharedBuild> find(const Hash& key) {
    const auto found = listed.find(key);
    return found == listed.end() || found->second->control->cancelled() ? nullptr : found->second;
  }

  std::shared_ptr<SharedBuild> find(store::AccountId account, std::int64_t number) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const auto& build) {
      return build->account == account && build->number.load() == number &&
             !build->control->cancelled();
    });
    return found == all.end() ? nullptr : *found;
  }

  void add(const std::shared_ptr<SharedBuild>& build) {
    build->leave = [state = weak_from_this()](const std::shared_ptr<SharedBuild>& left) {
      if (const auto self = state.lock()) {
        self->leave(left);
      }
    };
    if (closed) {
      build->leave_running(); // came too late for this daemon
    }
    all.push_back(build);
    if (build->listed) {
      listed[build->key] = build;
    }
  }

  void remove(const std::shared_ptr<SharedBuild>& build) {
    const std::lock_guard lock(mutex);
    const auto found = listed.find(build->key);
    if (found != listed.end() && found->second == build) {
      listed.erase(found);
    }
    std::erase(all, build);
  }

  /// With the lock held: nobody waits for the build any more.
  void abandon(const std::shared_ptr<SharedBuild>& build, std::chrono::seconds at_least) {
    const auto wait = std::max(build->grace, at_least);
    const bool runs = std::find(all.begin(), all.end(), build) != all.end();
    if (closed || !runs || build->keep == KeepRunning::Keep) {
      return;
    }
    if (wait.count() == 0) {
      build->cancel();
      return;
    }
    auto waiting = wait_for_return(shared_from_this(), build, build->changes, wait);
    tasks.spawn("a build's time of grace", std::move(waiting));
  }

  void leave(const std::shared_ptr<SharedBuild>& build) {
    const std::lock_guard lock(mutex);
    if (--build->askers == 0) {
      abandon(build, std::chrono::seconds(0));
    }
  }

  /// Whether a build that an earlier daemon left waiting, or whose machine is gone, shall run: it
  /// is kept, or somebody comes back for it before its time of grace is over.
  static aio::Task<bool> wait_until_wanted(std::shared_ptr<State> self,
                                           std::shared_ptr<SharedBuild> build) {
    for (;;) {
      const auto seen = build->change.count();
      if (build->control->cancelled()) {
        co_return false;
      }
      if (build->control->left_running()) {
        throw Error(Reaction::Cancelled,
                    "build.cancelled",
                    "the daemon ended while the build waited for its client");
      }
      {
        const std::lock_guard lock(self->mutex);
        if (build->askers > 0 || build->keep != KeepRunning::Abort) {
          co_return true;
        }
      }
      co_await build->change.wait(seen);
    }
  }

  static aio::Task<void> wait_for_return(std::shared_ptr<State> self,
                                         std::shared_ptr<SharedBuild> build,
                                         std::uint64_t changes,
                                         std::chrono::seconds patience) {
    co_await step_aside();
    const auto until = std::chrono::steady_clock::now() + patience;
    for (;;) {
      const auto seen = build->end.count();
      {
        const std::lock_guard lock(self->mutex);
        if (build->changes != changes || self->closed) {
          co_return;
        }
      }
      {
        const std::lock_guard lock(build->mutex);
        if (build->ended) {
          co_return;
        }
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          until - std::chrono::steady_clock::now());
      if (left.count() <= 0) {
        break;
      }
      co_await build->end.wait(seen, left);
    }
    const std::lock_guard lock(self->mutex);
    if (build->askers == 0 && build->changes == changes && !self->closed) {
      build->cancel();
    }
  }

  /// Builds once more what has just been built, and compares; a build of its own, which nobody
  /// waits for and everything else goes before.
  void check_later(BuildRequest request) {
    request.check = true;
    request.placement.priority -= kLater;
    request.placement.interactive = false;
    request.placement.tags.insert("check:automatic");
    request.policy->keep = KeepRunning::Keep;
    request.policy->keep_failed = false;
    request.options.keep_failed.reset();
    auto build = std::make_shared<SharedBuild>();
    build->account = request.account;
    build->keep = KeepRunning::Keep;
    const std::lock_guard lock(mutex);
    if (closed) {
      return;
    }
    add(build);
    std::string name = "check of " + request.derivation_path.base_name();
    auto work = carry_out(shared_from_this(), build, std::move(request), nullptr, std::nullopt);
    tasks.spawn(std::move(name), std::move(work));
  }

  /// What a client has asked for (`repeat`, `enforce-determinism`): each round is a build of its
  /// own, and the first one that differs ends them.
  static aio::Task<void> repeat(std::shared_ptr<State> self,
                                std::shared_ptr<BuildControl> control,
                                BuildRequest request,
                                model::BuildResult& result) {
    const auto rounds = std::min(request.options.repeats.value_or(0), kMostRepeats);
    const bool enforce = request.options.enforce_determinism.value_or(true);
    request.check = true;
    request.placement.tags.insert("check:repeat");
    for (std::uint32_t round = 0; round < rounds && model::is_success(result.status); ++round) {
      BuildRequest again = request;
      auto compared = co_await self->builder.run(
          std::move(again), std::make_shared<LogFeed>(), control, [](std::int64_t) {});
      if (model::is_success(compared.status)) {
        ++result.times_built;
        continue;
      }
      result.non_deterministic = compared.status == model::BuildStatus::NotDeterministic;
      if (enforce || !result.non_deterministic) {
        result.status = compared.status;
        result.error = compared.error;
        result.outputs.clear();
      }
      break;
    }
  }

  static aio::Task<void> carry_out(std::shared_ptr<State> self,
                                   std::shared_ptr<SharedBuild> build,
                                   BuildRequest request,
                                   std::shared_ptr<BuildInputs> inputs,
                                   std::optional<store::OpenBuild> open) {
    co_await step_aside();
    std::optional<model::BuildResult> result;
    std::exception_ptr failure;
    std::optional<BuildRequest> again;
    const auto kind = model::derivation_kind(request.derivation);
    if (!request.check && kind == model::OutputKind::InputAddressed &&
        (request.options.repeats.value_or(0) > 0 || self->builder.policy_of(request).build_twice)) {
      again = request;
      again->policy = self->builder.policy_of(request);
    }
    try {
      if (open) {
        std::function<aio::Task<bool>()> wanted = [self, build] {
          return wait_until_wanted(self, build);
        };
        result = co_await self->builder.resume(std::move(*open),
                                               std::move(request),
                                               build->feed,
                                               build->control,
                                               std::move(wanted),
                                               std::move(inputs));
      } else {
        std::function<void(std::int64_t)> on_number = [build](std::int64_t number) {
          build->number.store(number);
        };
        result = co_await self->builder.run(std::move(request),
                                            build->feed,
                                            build->control,
                                            std::move(on_number),
                                            std::move(inputs));
      }
      if (again && result->status == model::BuildStatus::Built && result->times_built > 0) {
        co_await repeat(self, build->control, *again, *result);
      }
    } catch (...) {
      failure = std::current_exception();
    }
    self->remove(build);
    const bool built = !failure && result->status == model::BuildStatus::Built;
    const bool once = built && result->times_built == 1;
    build->finish(std::move(result), failure);
    if (again && again->policy->build_twice && once) {
      self->check_later(std::move(*again));
    }
  }
};

SharedBuilds::SharedBuilds(Builder& builder, aio::TaskGroup& tasks, SharedBuildsSettings settings)
    : state_(std::make_shared<State>(builder, tasks, settings)) {}

SharedBuilds::~SharedBuilds() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = true;
}

aio::Task<Attachment> SharedBuilds::ask(BuildRequest request) {
  auto state = state_;
  std::optional<model::BuildResult> valid;
  auto work = [&state, &request, &valid] {
    // Leased before they are looked at, so that what is found valid stays so.
    auto inputs = state->builder.resolve(request);
    if (!request.check) {
      valid = state->builder.find_valid(request, *inputs);
    }
    return inputs;
  };
  auto inputs = co_await state->builder.parts().pool.run(std::move(work));
  Attachment attachment;
  const auto& policy = state->builder.policy_of(request);
  const std::lock_guard lock(state->mutex);
  std::optional<Hash> key;
  // Nobody joins a check: its end says nothing about the outputs.
  if (inputs->key && !request.check) {
    key = share_key(*inputs->key, request);
  }
  attachment.build_ = key ? state->find(*key) : nullptr;
  attachment.joined_ = attachment.build_ != nullptr;
  if (!attachment.build_) {
    attachment.build_ = std::make_shared<SharedBuild>();
    attachment.build_->account = request.account;
    attachment.build_->inputs = inputs;
  }
  auto& build = *attachment.build_;
  if (!request.waiting.empty()) {
    build.control->hurry();
  }
  build.arrive();
  build.add_choice(policy);
  if (request.proven) {
    build.control->prove(); // for all: the derivation is the same
  }
  if (attachment.joined_) {
    co_return attachment;
  }
  if (valid) {
    build.finish(std::move(valid), nullptr);
    co_return attachment;
  }
  build.listed = key.has_value();
  build.key = key.value_or(Hash());
  state->add(attachment.build_);
  std::string name = "build of " + request.derivation_path.base_name();
  auto work_on = State::carry_out(
      state, attachment.build_, std::move(request), std::move(inputs), std::nullopt);
  state->tasks.spawn(std::move(name), std::move(work_on));
  co_return attachment;
}

std::optional<Attachment> SharedBuilds::attach(store::AccountId account, std::int64_t number) {
  const std::lock_guard lock(state_->mutex);
  Attachment attachment;
  attachment.build_ = state_->find(account, number);
  if (!attachment.build_) {
    return std::nullopt;
  }
  attachment.joined_ = true;
  attachment.build_->arrive();
  return attachment;
}

bool SharedBuilds::cancel(store::AccountId account, std::int64_t number) {
  const std::lock_guard lock(state_->mutex);
  const auto build = state_->find(account, number);
  if (build) {
    build->cancel();
  }
  return build != nullptr;
}

std::vector<std::string> SharedBuilds::take_up() {
  std::vector<std::string> plans;
  auto& builder = state_->builder;
  for (auto& open : builder.parts().store.db().open_builds()) {
    std::optional<BuildRequest> request;
    try {
      request.emplace(builder.request_of(open));
    } catch (const Error& error) {
      builder.give_up(open, fmt::format("interrupted: {}", error.what()));
      continue;
    }
    if (!open.plan.empty()) {
      plans.push_back(open.plan);
    }
    auto inputs = builder.resolve(*request);
    auto build = std::make_shared<SharedBuild>();
    build->account = request->account;
    build->inputs = inputs;
    build->number.store(open.record.id);
    build->feed = std::make_shared<LogFeed>(builder.parts().logs.size(open.record.id));
    build->add_choice(*request->policy);
    if (request->proven) {
      build->control->prove();
    }
    if (inputs->key && !request->check) {
      build->key = share_key(*inputs->key, *request);
      build->listed = true;
    }
    const std::lock_guard lock(state_->mutex);
    state_->add(build);
    std::string name = fmt::format("build {}, taken up", open.record.id);
    auto work =
        State::carry_out(state_, build, std::move(*request), std::move(inputs), std::move(open));
    state_->tasks.spawn(std::move(name), std::move(work));
    state_->abandon(build, state_->settings.return_grace);
  }
  return plans;
}

void SharedBuilds::leave_running() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = true;
  for (const auto& build : state_->all) {
    build->leave_running();
  }
}

std::size_t SharedBuilds::running() const {
  const std::lock_guard lock(state_->mutex);
  return state_->all.size();
}

std::optional<MonotonicTime> SharedBuilds::running_since(store::AccountId account,
                                                         std::int64_t number) const {
  const std::lock_guard lock(state_->mutex);
  const auto build = state_->find(account, number);
  return build ? build->control->began() : std::nullopt;
}

const model::SigningKey* SharedBuilds::signing_key() const noexcept {
  return state_->builder.parts().signing_key;
}

Attachment::~Attachment() {
  if (build_ && build_->leave) {
    build_->leave(build_);
  }
}

Attachment::Attachment(Attachment&& other) noexcept
    : build_(std::move(other.build_)), joined_(other.joined_) {}

Attachment& Attachment::operator=(Attachment&& other) noexcept {
  std::swap(build_, other.build_);
  std::swap(joined_, other.joined_);
  return *this;
}

LogFeed& Attachment::feed() noexcept {
  return *build_->feed;
}

std::int64_t Attachment::number() const noexcept {
  return build_->number.load();
}

aio::Task<model::BuildResult> Attachment::result() {
  auto build = build_;
  for (;;) {
    const auto seen = build->end.count();
    {
      const std::lock_guard lock(build->mutex);
      if (build->failure) {
        std::rethrow_exception(build->failure);
      }
      if (build->ended) {
        co_return *build->result;
      }
    }
    co_await build->end.wait(seen);
  }
}

} // namespace nixbuild::build
