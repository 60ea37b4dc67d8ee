#include <nixbuild/base/error.hpp>
#include <nixbuild/build/kept_machines.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::build {

KeptMachines::KeptMachines(const Clock& clock, Settings settings)
    : clock_(clock), settings_(settings) {}

KeptMachines::~KeptMachines() = default;

bool KeptMachines::keep(store::AccountId account,
                        std::int64_t build,
                        std::unique_ptr<sandbox::Execution>& execution) {
  std::unique_ptr<sandbox::Execution> gone;
  const std::lock_guard lock(mutex_);
  if (places_.size() >= settings_.most) {
    // They stand in the order of their coming, which is that of their ends.
    const auto oldest = std::find_if(places_.begin(), places_.end(), [](const Place& place) {
      return place.execution != nullptr;
    });
    if (oldest == places_.end()) {
      return false;
    }
    gone = std::move(oldest->execution);
    places_.erase(oldest);
  }
  places_.push_back({account, build, clock_.monotonic() + settings_.time, std::move(execution)});
  return true;
}

KeptMachines::Visit KeptMachines::visit(store::AccountId account, std::int64_t build) {
  const std::lock_guard lock(mutex_);
  const auto place = std::find_if(places_.begin(), places_.end(), [&](const Place& one) {
    return one.account == account && one.build == build;
  });
  if (place == places_.end()) {
    throw Error(
        Reaction::NotFound,
        "kept.none",
        fmt::format("the machine of build {} is not there: machines are kept for {} minutes, "
                    "and only after a failure with --keep-failed or the setting keep-failed",
                    build,
                    settings_.time.count()));
  }
  if (place->execution == nullptr) {
    throw Error(Reaction::Denied,
                "kept.busy",
                fmt::format("somebody is in the machine of build {}", build));
  }
  Visit visit(*this, build);
  visit.execution_ = std::move(place->execution);
  return visit;
}

void KeptMachines::leave(std::int64_t build,
                         std::unique_ptr<sandbox::Execution> execution) noexcept {
  const std::lock_guard lock(mutex_);
  const auto place = std::find_if(
      places_.begin(), places_.end(), [&](const Place& one) { return one.build == build; });
  if (place == places_.end()) {
    return;
  }
  if (execution == nullptr) {
    places_.erase(place);
  } else {
    place->execution = std::move(execution);
  }
}

void KeptMachines::tidy() {
  std::vector<std::unique_ptr<sandbox::Execution>> gone;
  const std::lock_guard lock(mutex_);
  const auto now = clock_.monotonic();
  std::erase_if(places_, [&](Place& place) {
    const bool over = place.execution != nullptr && place.until <= now;
    if (over) {
      gone.push_back(std::move(place.execution));
    }
    return over;
  });
}

std::size_t KeptMachines::count() const {
  const std::lock_guard lock(mutex_);
  return places_.size();
}

KeptMachines::Visit::Visit(Visit&& other) noexcept
    : machines_(std::exchange(other.machines_, nullptr)), build_(other.build_),
      execution_(std::move(other.execution_)) {}

KeptMachines::Visit::~Visit() {
  if (machines_ != nullptr) {
    machines_->leave(build_, std::move(execution_));
  }
}

} // namespace nixbuild::build
