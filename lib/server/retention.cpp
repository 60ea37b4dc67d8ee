#include "retention.hpp"

#include <algorithm>

namespace nixbuild::server {

namespace {

/// Rows that one transaction removes.
constexpr std::size_t kStep = 500;

std::int64_t microseconds_of(WallTime time) {
  return std::chrono::microseconds(time.time_since_epoch()).count();
}

} // namespace

Forgotten
forget_old(store::MetadataDb& db, store::LogStore& logs, const Retention& retention, WallTime now) {
  constexpr std::chrono::days never{0};
  Forgotten forgotten;
  auto keep_logs = retention.logs;
  if (retention.builds != never) {
    keep_logs = keep_logs == never ? retention.builds : std::min(keep_logs, retention.builds);
    const auto before = microseconds_of(now - retention.builds);
    std::size_t removed = kStep;
    while (removed == kStep) {
      removed = db.remove_builds(before, kStep);
      forgotten.builds += removed;
    }
  }
  if (keep_logs != never) {
    forgotten.logs = logs.remove_finished_before(now - keep_logs);
  }
  return forgotten;
}

} // namespace nixbuild::server
