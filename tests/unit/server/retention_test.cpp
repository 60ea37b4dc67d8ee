#include "server/retention.hpp"

#include <nixbuild/store/memory.hpp>

#include <catch2/catch.hpp>

#include <chrono>

namespace retention_test {

using namespace nixbuild;
using namespace nixbuild::server;
using std::chrono::days;

namespace {

struct Past {
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::LogStore> logs = store::make_memory_logs();
  store::AccountId account = db->ensure_account("a");
  WallTime now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());

  std::int64_t add(days ago) {
    store::BuildRecord record;
    record.account = account;
    record.derivation = "x.drv";
    record.status = model::BuildStatus::Built;
    record.stopped_us = std::chrono::microseconds((now - ago).time_since_epoch()).count();
    const auto id = db->add_build(record);
    logs->append(id, bytes_of("said"));
    logs->finish(id);
    return id;
  }
};

} // namespace

TEST_CASE("retention: builds go by their age, thousands in one go", "[server]") {
  Past past;
  for (int i = 0; i < 1203; ++i) {
    past.add(days(50));
  }
  const auto young = past.add(days(39));
  CHECK(forget_old(*past.db, *past.logs, {}, past.now).builds == 0);
  const auto forgotten = forget_old(*past.db, *past.logs, {days(40), days(0)}, past.now);
  CHECK(forgotten.builds == 1203);
  CHECK(past.db->builds(past.account, 10).size() == 1);
  CHECK(past.db->build(past.account, young));
}

TEST_CASE("retention: logs go by their own age, and not later than their builds", "[server]") {
  Past past;
  const auto build = past.add(days(0));
  // All logs are new; later they are old.
  const auto later = past.now + days(35);
  CHECK(forget_old(*past.db, *past.logs, {days(0), days(36)}, later).logs == 0);
  CHECK(forget_old(*past.db, *past.logs, {days(40), days(34)}, later).logs == 1);
  CHECK(past.db->build(past.account, build));
  CHECK_FALSE(past.logs->read(build, 0, 10));
  past.add(days(0));
  const auto both = forget_old(*past.db, *past.logs, {days(34), days(100)}, later);
  CHECK(both.builds == 2);
  CHECK(both.logs == 1);
}

} // namespace retention_test
