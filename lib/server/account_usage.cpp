#include "account_usage.hpp"

#include "api.hpp"
#include "api_time.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/server/reported_status.hpp>

#include <algorithm>

namespace nixbuild::server {

void Spent::add(const Spent& other) {
  builds += other.builds;
  cpu_us += other.cpu_us;
  memory_gib_seconds += other.memory_gib_seconds;
}

bool is_billable(const store::BuildRecord& record) {
  const auto status = reported_status(record);
  return has_ended(status) && status != ReportedStatus::InternalError && record.started_us != 0;
}

Spent spent_by(const store::BuildRecord& record) {
  const auto took = std::max<std::int64_t>(record.stopped_us - record.started_us, 0);
  const auto gib = static_cast<double>(record.memory_bytes) / static_cast<double>(kGiB);
  return {1, record.cpu_us, gib * static_cast<double>(took) / 1e6};
}

AccountUsage usage_of(store::MetadataDb& db,
                      store::AccountId account,
                      std::int64_t from_us,
                      std::int64_t to_us) {
  AccountUsage usage;
  for (const auto& record : db.builds(account, kMostScanned)) {
    if (is_billable(record) && record.stopped_us >= from_us && record.stopped_us < to_us) {
      const auto spent = spent_by(record);
      usage.days[day_of(record.stopped_us)].add(spent);
      usage.keys[record.ssh_key].add(spent);
      for (const auto& tag : record.tags) {
        usage.tags[tag].add(spent);
      }
      usage.sum.add(spent);
    }
  }
  return usage;
}

} // namespace nixbuild::server
