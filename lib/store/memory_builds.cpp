#include "memory_builds.hpp"

#include "metadata_rules.hpp"

namespace nixbuild::store {

std::int64_t MemoryBuilds::add(const BuildRecord& record) {
  const auto id = ++last_;
  records_[id] = record;
  records_[id].id = id;
  return id;
}

void MemoryBuilds::update(const BuildRecord& record) {
  const auto found = records_.find(record.id);
  if (found == records_.end() || found->second.account != record.account) {
    throw_unknown_build(record.id);
  }
  const auto session = found->second.session;
  found->second = record;
  found->second.session = session;
}

void MemoryBuilds::note_sent(AccountId account, std::int64_t id, TimeSpan sent) {
  const auto found = records_.find(id);
  if (found != records_.end() && found->second.account == account) {
    found->second.session.send = sent;
  }
}

std::optional<BuildRecord> MemoryBuilds::find(AccountId account, std::int64_t id) const {
  const auto found = records_.find(id);
  return found == records_.end() || found->second.account != account ? std::nullopt
                                                                     : std::optional(found->second);
}

std::vector<BuildRecord> MemoryBuilds::newest(AccountId account, std::size_t limit) const {
  std::vector<BuildRecord> result;
  for (auto at = records_.rbegin(); at != records_.rend() && result.size() < limit; ++at) {
    if (at->second.account == account) {
      result.push_back(at->second);
    }
  }
  return result;
}

std::uint64_t MemoryBuilds::cpu_time_us(AccountId account, std::int64_t since_us) const {
  std::uint64_t total = 0;
  for (const auto& [id, record] : records_) {
    if (record.account == account && record.started_us > 0 && record.reused == 0 &&
        record.stopped_us >= since_us && record.stopped_us > record.started_us) {
      total += static_cast<std::uint64_t>(record.stopped_us - record.started_us) * record.cpus;
    }
  }
  return total;
}

std::int64_t MemoryBuilds::open(const BuildRecord& record, std::string_view request) {
  const auto id = add(record);
  auto& opened = open_[id];
  opened.record = records_[id];
  opened.request = request;
  return id;
}

bool MemoryBuilds::begin_attempt(const BuildRecord& record,
                                 std::string_view plan,
                                 std::uint64_t log_base) {
  if (record.attempt == 0 || !is_open(record.id, record.attempt - 1)) {
    return false;
  }
  update(record);
  auto& opened = open_.at(record.id);
  opened.record = record;
  opened.plan = plan;
  opened.log_base = log_base;
  return true;
}

bool MemoryBuilds::is_open(std::int64_t build, unsigned attempt) const {
  const auto found = open_.find(build);
  return found != open_.end() && found->second.record.attempt == attempt;
}

void MemoryBuilds::end(const BuildRecord& record, const BuildOutcome* outcome) {
  update(record);
  if (outcome != nullptr) {
    outcomes_.insert_or_assign({outcome->key, outcome->account}, *outcome);
  }
  open_.erase(record.id);
}

std::vector<OpenBuild> MemoryBuilds::all_open() const {
  std::vector<OpenBuild> result;
  for (const auto& [id, opened] : open_) {
    result.push_back(opened);
    result.back().record = records_.at(id);
  }
  return result;
}

std::optional<BuildOutcome>
MemoryBuilds::find_outcome(AccountId account, const Hash& key, bool of_others) const {
  if (const auto own = outcomes_.find({key, account}); own != outcomes_.end()) {
    return own->second;
  }
  const BuildOutcome* newest = nullptr;
  for (auto at = outcomes_.lower_bound({key, AccountId{}});
       of_others && at != outcomes_.end() && at->first.first == key;
       ++at) {
    const auto& outcome = at->second;
    if (outcome.shared && outcome.status == model::BuildStatus::Built &&
        (newest == nullptr || outcome.build > newest->build)) {
      newest = &outcome;
    }
  }
  return newest == nullptr ? std::nullopt : std::optional(*newest);
}

std::size_t MemoryBuilds::remove(std::int64_t before_us, std::size_t limit) {
  std::size_t count = 0;
  for (auto at = records_.begin(); at != records_.end() && count < limit;) {
    const auto& record = at->second;
    if (!record.status || record.stopped_us >= before_us || open_.contains(at->first)) {
      ++at;
      continue;
    }
    std::erase_if(outcomes_, [&](const auto& entry) { return entry.second.build == at->first; });
    at = records_.erase(at);
    ++count;
  }
  return count;
}

void MemoryBuilds::remove_account(AccountId account) {
  std::erase_if(open_, [&](const auto& entry) { return entry.second.record.account == account; });
  std::erase_if(outcomes_, [&](const auto& entry) { return entry.second.account == account; });
  std::erase_if(records_, [&](const auto& entry) { return entry.second.account == account; });
}

} // namespace nixbuild::store
