#include <nixbuild/base/digest.hpp>
#include <nixbuild/build/shared_builds.hpp>

#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

namespace nixbuild::build {

struct SharedBuild {
  std::shared_ptr<LogFeed> feed = std::make_shared<LogFeed>();
  std::shared_ptr<BuildControl> control = std::make_shared<BuildControl>();
  std::atomic<std::int64_t> number{0};
  std::atomic<unsigned> askers{0};

  std::mutex mutex;
  std::optional<model::BuildResult> result;
  std::exception_ptr failure;
  bool ended = false;
  aio::Event end;
};

namespace {

/// What makes two requests of one account the same build. Store path names are unique within an
/// account, so equal derivation bytes mean equal inputs; limits asked for are a part, so that
/// nobody's time limit ends another one's build.
using Key = std::pair<std::int64_t, Hash>;

void put(Hasher& hasher, std::string_view text) {
  const std::uint64_t size = text.size();
  hasher.update(ByteView(reinterpret_cast<const std::uint8_t*>(&size), sizeof size));
  hasher.update(bytes_of(text));
}

Key key_of(const BuildRequest& request) {
  Hasher hasher(HashAlgorithm::Sha256);
  put(hasher, request.derivation_path.base_name());
  model::Derivation whole;
  static_cast<model::BasicDerivation&>(whole) = request.derivation;
  put(hasher, model::print_derivation(model::StoreDir(), whole));
  put(hasher, std::to_string(request.options.timeout.count()));
  put(hasher, std::to_string(request.options.max_silent_time.count()));
  put(hasher, std::to_string(request.options.max_log_bytes.value_or(0)));
  return {request.account.value, hasher.finish()};
}

} // namespace

struct SharedBuilds::State {
  Builder& builder;
  aio::TaskGroup& tasks;
  mutable std::mutex mutex;
  std::map<Key, std::shared_ptr<SharedBuild>> builds;

  State(Builder& b, aio::TaskGroup& t) : builder(b), tasks(t) {}

  static aio::Task<void> carry_out(std::shared_ptr<State> self,
                                   std::shared_ptr<SharedBuild> build,
                                   Key key,
                                   BuildRequest request) {
    std::optional<model::BuildResult> result;
    std::exception_ptr failure;
    try {
      std::function<void(std::int64_t)> on_number = [build](std::int64_t number) {
        build->number.store(number);
      };
      result = co_await self->builder.run(
          std::move(request), build->feed, build->control, std::move(on_number));
    } catch (...) {
      failure = std::current_exception();
    }
    {
      const std::lock_guard lock(self->mutex);
      const auto found = self->builds.find(key);
      if (found != self->builds.end() && found->second == build) {
        self->builds.erase(found);
      }
    }
    {
      const std::lock_guard lock(build->mutex);
      build->result = std::move(result);
      build->failure = failure;
      build->ended = true;
    }
    build->feed->close();
    build->end.notify();
  }
};

SharedBuilds::SharedBuilds(Builder& builder, aio::TaskGroup& tasks)
    : state_(std::make_shared<State>(builder, tasks)) {}

SharedBuilds::~SharedBuilds() = default;

Attachment SharedBuilds::ask(BuildRequest request) {
  Attachment attachment;
  const auto key = key_of(request);
  const std::lock_guard lock(state_->mutex);
  auto& slot = state_->builds[key];
  // One that is being cancelled is on its way out: whoever asks now gets a new one.
  if (slot && !slot->control->cancelled()) {
    ++slot->askers;
    attachment.build_ = slot;
    attachment.joined_ = true;
    return attachment;
  }
  slot = std::make_shared<SharedBuild>();
  slot->askers = 1;
  attachment.build_ = slot;
  std::string name = "build of " + request.derivation_path.base_name();
  state_->tasks.spawn(std::move(name), State::carry_out(state_, slot, key, std::move(request)));
  return attachment;
}

std::size_t SharedBuilds::running() const {
  const std::lock_guard lock(state_->mutex);
  return state_->builds.size();
}

Attachment::~Attachment() {
  if (build_ && --build_->askers == 0) {
    build_->control->cancel();
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
