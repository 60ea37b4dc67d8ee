#include <nixbuild/scheduler/compute_engine.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace nixbuild::scheduler {

LocalEngine::LocalEngine(LocalEngineSettings settings) : settings_(std::move(settings)) {}

std::optional<LeaseRefused> LocalEngine::objection(const LeaseRequest& request) const {
  if (!settings_.platforms.contains(request.platform)) {
    return LeaseRefused{request.id,
                        "scheduler.platform",
                        fmt::format("platform '{}' is not offered; this builder runs {}",
                                    request.platform,
                                    fmt::join(settings_.platforms, ", "))};
  }
  std::vector<std::string> missing;
  std::set_difference(request.features.begin(),
                      request.features.end(),
                      settings_.features.begin(),
                      settings_.features.end(),
                      std::back_inserter(missing));
  if (!missing.empty()) {
    return LeaseRefused{request.id,
                        "scheduler.features",
                        fmt::format("system features {{{}}} are required but not offered; this "
                                    "builder offers {{{}}}",
                                    fmt::join(missing, ", "),
                                    fmt::join(settings_.features, ", "))};
  }
  if (request.capacity.cpus > settings_.capacity.cpus ||
      request.capacity.memory_bytes > settings_.capacity.memory_bytes) {
    return LeaseRefused{request.id,
                        "scheduler.too-big",
                        fmt::format("{} cpus and {} MiB are asked for; this builder has {} cpus "
                                    "and {} MiB in all",
                                    request.capacity.cpus,
                                    request.capacity.memory_bytes >> 20,
                                    settings_.capacity.cpus,
                                    settings_.capacity.memory_bytes >> 20)};
  }
  return std::nullopt;
}

void LocalEngine::request(LeaseRequest request) {
  if (auto refusal = objection(request)) {
    decisions_.refused.push_back(std::move(*refusal));
    return;
  }
  queue_.push_back(std::move(request));
  grant_what_fits();
}

void LocalEngine::release(LeaseId id) {
  if (const auto held = held_.find(id); held != held_.end()) {
    in_use_.cpus -= held->second.cpus;
    in_use_.memory_bytes -= held->second.memory_bytes;
    held_.erase(held);
  } else {
    std::erase_if(queue_, [id](const LeaseRequest& waiting) { return waiting.id == id; });
  }
  grant_what_fits();
}

void LocalEngine::grant_what_fits() {
  while (!queue_.empty()) {
    const auto& first = queue_.front();
    if (in_use_.cpus + first.capacity.cpus > settings_.capacity.cpus ||
        in_use_.memory_bytes + first.capacity.memory_bytes > settings_.capacity.memory_bytes) {
      return;
    }
    in_use_.cpus += first.capacity.cpus;
    in_use_.memory_bytes += first.capacity.memory_bytes;
    held_.emplace(first.id, first.capacity);
    decisions_.granted.push_back(LeaseGranted{first.id, "local"});
    queue_.pop_front();
  }
}

LeaseDecisions LocalEngine::take_decisions() {
  return std::exchange(decisions_, {});
}

} // namespace nixbuild::scheduler
