#include <nixbuild/scheduler/history.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <unordered_map>
#include <utility>

namespace nixbuild::scheduler {

namespace {

struct Package {
  std::string key;
  std::vector<BuildRecord> records; ///< oldest first
};

std::string key_of(std::string_view package, std::string_view platform) {
  return fmt::format("{}\n{}", package, platform);
}

} // namespace

struct History::Parts {
  std::size_t limit = 0;
  std::size_t per_package = 0;
  std::size_t size = 0;
  std::list<Package> packages; ///< the one seen last is last
  std::unordered_map<std::string, std::list<Package>::iterator> by_key;
};

History::History(std::size_t limit, std::size_t per_package) : parts_(std::make_unique<Parts>()) {
  parts_->limit = std::max<std::size_t>(1, limit);
  parts_->per_package = std::max<std::size_t>(1, per_package);
}

History::~History() = default;
History::History(History&&) noexcept = default;
History& History::operator=(History&&) noexcept = default;

std::size_t History::size() const noexcept {
  return parts_->size;
}

void History::add(const BuildRecord& record) {
  const bool teaches = record.outcome == Outcome::Succeeded ||
                       record.outcome == Outcome::BuilderFailed ||
                       record.outcome == Outcome::OutOfMemory;
  if (!teaches) {
    return;
  }
  auto& parts = *parts_;
  auto key = key_of(record.package, record.platform);
  auto found = parts.by_key.find(key);
  if (found == parts.by_key.end()) {
    parts.packages.push_back(Package{key, {}});
    found = parts.by_key.emplace(std::move(key), std::prev(parts.packages.end())).first;
  } else {
    parts.packages.splice(parts.packages.end(), parts.packages, found->second);
  }
  auto& records = found->second->records;
  if (records.size() == parts.per_package) {
    records.erase(records.begin());
    --parts.size;
  }
  records.push_back(record);
  ++parts.size;
  while (parts.size > parts.limit) {
    auto& oldest = parts.packages.front();
    oldest.records.erase(oldest.records.begin());
    --parts.size;
    if (oldest.records.empty()) {
      parts.by_key.erase(oldest.key);
      parts.packages.pop_front();
    }
  }
}

std::optional<Prediction> History::predict(std::string_view account,
                                           const PackageName& name,
                                           std::string_view platform) const {
  const auto found = parts_->by_key.find(key_of(name.package, platform));
  if (found == parts_->by_key.end()) {
    return std::nullopt;
  }
  const auto& records = found->second->records;
  auto likeness = [&](const BuildRecord& record) {
    return (record.version == name.version ? 2 : 0) + (record.account == account ? 1 : 0);
  };
  int best = 0;
  for (const auto& record : records) {
    best = std::max(best, likeness(record));
  }
  Prediction prediction;
  prediction.basis =
      best >= 2 && !name.version.empty() ? name.package + "-" + name.version : name.package;
  prediction.basis += best % 2 == 1 ? " of the same account" : "";
  std::uint64_t enough = 0; // the most memory with which a similar run came through
  for (const auto& record : records) {
    if (likeness(record) != best) {
      continue;
    }
    if (record.peak_memory_bytes > 0 && record.outcome != Outcome::OutOfMemory) {
      prediction.peak_memory_bytes =
          std::max(prediction.peak_memory_bytes.value_or(0), record.peak_memory_bytes);
    }
    if (record.outcome == Outcome::OutOfMemory) {
      prediction.exceeded_memory = std::max(prediction.exceeded_memory, record.memory_bytes);
      continue;
    }
    enough = std::max(enough, record.memory_bytes);
    if (record.outcome == Outcome::Succeeded) {
      prediction.duration = record.duration;
    }
    if (record.cpu_time.count() > 0 && record.duration.count() > 0) {
      prediction.busy_cpus = static_cast<double>(record.cpu_time.count()) /
                             static_cast<double>(record.duration.count());
      prediction.cpus_held = record.cpus;
    }
  }
  if (enough > prediction.exceeded_memory && prediction.peak_memory_bytes) {
    prediction.exceeded_memory = 0; // the larger machine was measured: its peak says more
  }
  return prediction;
}

} // namespace nixbuild::scheduler
