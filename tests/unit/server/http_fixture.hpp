#pragma once

#include <nixbuild/server/http.hpp>
#include <nixbuild/store/memory.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

namespace nixbuild::tests {

/// Stands still unless it is moved.
class HttpTestClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override { return WallTime(std::chrono::seconds(now)); }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }

  std::atomic<std::int64_t> now{1'700'000'000};
};

/// What the HTTP interface shows, in memory.
struct HttpWorld {
  HttpTestClock clock;
  NullLog log;
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::SegmentStore> segments = store::make_memory_segments();
  std::unique_ptr<store::LogStore> logs = store::make_memory_logs();
  store::Store store{*db, *segments, clock, model::StoreDir()};
  server::ServerCounters counters;
  store::AccountId account = db->ensure_account("default");
  store::AccountId other = db->ensure_account("other");
  server::HttpParts parts{store, *logs, clock, counters, log};

  /// Asked at `second`, started one second later, and ended ten seconds after that.
  std::int64_t add_build(std::int64_t second,
                         std::optional<model::BuildStatus> status,
                         std::string error = "",
                         std::optional<store::AccountId> whose = std::nullopt) {
    store::BuildRecord record;
    record.account = whose.value_or(account);
    record.derivation = "00000000000000000000000000000000-a.drv";
    record.platform = "x86_64-linux";
    record.created_us = second * 1'000'000;
    record.started_us = record.created_us + 1'000'000;
    record.stopped_us = status ? record.started_us + 10'000'000 : 0;
    record.status = status;
    record.error = std::move(error);
    record.cpus = 2;
    record.memory_bytes = 2 * kGiB;
    record.peak_memory_bytes = status ? 100 * kMiB : 0;
    record.cpu_us = status ? 4'500'000 : 0;
    record.log_bytes = 7;
    return db->add_build(record);
  }
};

} // namespace nixbuild::tests
