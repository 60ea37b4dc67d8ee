#include "server/quota_desk.hpp"
#include "support/run_task.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/store/memory.hpp>

#include <catch2/catch.hpp>

#include <memory>
#include <optional>
#include <string>

namespace quota_desk_test {

using namespace nixbuild;

namespace {

/// 2026-11-25, until it is moved.
class CalendarClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override { return WallTime(std::chrono::seconds(seconds)); }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }

  std::int64_t seconds = 1'795'600'000;
};

struct Desk {
  CalendarClock clock;
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::SegmentStore> segments = store::make_memory_segments();
  store::Store store{*db, *segments, clock, model::StoreDir()};
  store::AccountId account = db->ensure_account("default");
  server::AccountDesk accounts{*db, clock, {}};
  build::LeaseDesk leases{{}, {{"local", 2, kGiB, {"x86_64-linux"}, {}}}, clock};
  server::QuotaDesk quotas{store, accounts, leases, clock};

  void add_build(std::int64_t stopped_seconds, std::int64_t hours, unsigned cpus) const {
    store::BuildRecord record;
    record.account = account;
    record.derivation = "x.drv";
    record.platform = "x86_64-linux";
    record.status = model::BuildStatus::Built;
    record.stopped_us = stopped_seconds * 1'000'000;
    record.started_us = (stopped_seconds - hours * 3600) * 1'000'000;
    record.cpus = cpus;
    db->add_build(record);
  }

  /// Why a build of the account does not start at once; nothing: it starts.
  std::optional<scheduler::QuotaState> obstacle() {
    std::optional<scheduler::QuotaState> found;
    boost::asio::io_context io;
    test::run_task(io, ask(found));
    return found;
  }

private:
  aio::Task<void> ask(std::optional<scheduler::QuotaState>& found) {
    scheduler::BuildRequest request;
    request.id = ++last_;
    request.account = std::to_string(account.value);
    request.name = "thing-1";
    request.platform = "x86_64-linux";
    request.bounds.max_cpus = 1;
    request.bounds.default_cpus = 1;
    request.bounds.min_memory = 256 * kMiB;
    request.bounds.max_memory = 512 * kMiB;
    request.bounds.default_memory_per_cpu = 256 * kMiB;
    std::function<bool()> look = [this, &found] {
      found = leases.explain(last_)->quota;
      return true;
    };
    try {
      auto lease = co_await leases.acquire(std::move(request), std::move(look));
      CHECK(lease.granted());
    } catch (const Error& error) {
      CHECK(error.code() == "build.cancelled");
    }
  }

  scheduler::BuildId last_ = 0;
};

} // namespace

TEST_CASE("quotas: the cpu hours of the month count although the daemon is new", "[server]") {
  Desk desk;
  desk.db->set_account_setting(desk.account, "max-cpu-hours-per-month", "10");
  desk.add_build(desk.clock.seconds, 2, 4);
  desk.add_build(desk.clock.seconds - 40 * 86'400, 100, 4);
  desk.quotas.tell_all();
  CHECK_FALSE(desk.obstacle());
  desk.add_build(desk.clock.seconds, 1, 2);
  desk.quotas.tell_all();
  const auto obstacle = desk.obstacle();
  REQUIRE(obstacle);
  CHECK(obstacle->name == "cpu-time");
  CHECK(obstacle->used == 10 * 3600);
  CHECK(obstacle->limit == 10 * 3600);
}

TEST_CASE("quotas: a new month begins with nothing used", "[server]") {
  Desk desk;
  desk.db->set_account_setting(desk.account, "max-cpu-hours-per-month", "1");
  desk.add_build(desk.clock.seconds, 1, 1);
  desk.quotas.tell_all();
  CHECK(desk.obstacle());
  CHECK_FALSE(desk.quotas.month_is_over());
  desk.clock.seconds += 7 * 86'400;
  CHECK(desk.quotas.month_is_over());
  desk.quotas.count_cpu_time();
  CHECK_FALSE(desk.quotas.month_is_over());
  CHECK_FALSE(desk.obstacle());
}

TEST_CASE("quotas: the store's limit holds from the first moment", "[server]") {
  Desk desk;
  desk.db->set_account_setting(desk.account, "max-store-bytes", "100");
  desk.quotas.tell_all();
  const model::StorePath path(Bytes(20), "x");
  const auto begin = [&](std::uint64_t size) {
    static_cast<void>(desk.store.begin_import(desk.account,
                                              {.path = path,
                                               .deriver = {},
                                               .nar_hash = {},
                                               .nar_size = size,
                                               .references = {},
                                               .signatures = {},
                                               .content_address = {},
                                               .scan_for = {}}));
  };
  CHECK_NOTHROW(begin(100));
  CHECK_THROWS_AS(begin(101), Error);
}

} // namespace quota_desk_test
