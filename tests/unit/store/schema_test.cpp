// The database on the disk: its versions, and what is none.

#include "fixture.hpp"

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

void run_sql(const std::filesystem::path& path, const char* sql) {
  sqlite3* raw = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &raw) == SQLITE_OK);
  const int code = sqlite3_exec(raw, sql, nullptr, nullptr, nullptr);
  sqlite3_close(raw);
  REQUIRE(code == SQLITE_OK);
}

} // namespace

TEST_CASE("metadata: what is registered survives a restart", "[store]") {
  const TemporaryDir dir;
  const auto info = info_for("kept");
  AccountId account;
  {
    const auto db = open_sqlite_metadata(dir.path() / "db");
    account = db->ensure_account("a");
    db->register_paths(account, {&info, 1});
  }
  const auto db = open_sqlite_metadata(dir.path() / "db");
  CHECK(db->find_account("a") == account);
  CHECK(db->path_info(account, info.path) == info);
}

TEST_CASE("metadata: an older schema is brought up to date, a newer one refused", "[store]") {
  const TemporaryDir dir;
  const auto path = dir.path() / "db";
  const auto info = info_for("old");
  {
    const auto db = open_sqlite_metadata(path);
    db->register_paths(db->ensure_account("a"), {&info, 1});
  }
  // As version 1 had it: paths, and no builds, keys and settings yet.
  run_sql(path,
          "drop table Builds; drop table OpenBuilds; drop table Outcomes; "
          "drop table OutcomeOutputs; drop table Keys; drop table KeyTags; "
          "drop table AccountSettings; drop table KeySettings; drop table Realisations; "
          "pragma user_version = 1");
  {
    const auto db = open_sqlite_metadata(path);
    const auto account = db->ensure_account("a");
    CHECK(db->path_info(account, info.path) == info);
    BuildRecord record;
    record.account = account;
    CHECK(db->add_build(record) > 0);
  }
  // As version 2 had it: builds, and no keys and settings yet.
  run_sql(
      path,
      "drop index BuildsByEnd; "
      "drop table OpenBuilds; drop table Outcomes; drop table OutcomeOutputs; "
      "alter table Builds drop column attempt; alter table Builds drop column build_key; "
      "alter table Builds drop column reused; alter table Builds drop column of_another; "
      "alter table Builds drop column ssh_key; alter table Builds drop column tags; "
      "alter table Builds drop column disk_bytes; alter table Builds drop column output_bytes; "
      "alter table Builds drop column outputs; alter table Builds drop column session; "
      "alter table Builds drop column sent_from_us; alter table Builds drop column sent_to_us; "
      "drop table Keys; drop table KeyTags; drop table AccountSettings; drop table KeySettings; "
      "drop table Realisations; pragma user_version = 2");
  {
    const auto db = open_sqlite_metadata(path);
    const auto account = db->ensure_account("a");
    CHECK(db->builds(account, 10).size() == 1);
    SshKey key;
    key.account = account;
    key.blob = "blob";
    CHECK(db->add_key(key) > 0);
    db->set_account_setting(account, "max-cpu", "4");
    CHECK(db->account_settings(account).at("max-cpu") == "4");
  }
  run_sql(path, ("pragma user_version = " + std::to_string(kSqliteSchemaVersion + 1)).c_str());
  CHECK(code_of([&] { static_cast<void>(open_sqlite_metadata(path)); }) == "metadata.newer");
}

TEST_CASE("metadata: a file that is no database is refused", "[store][reject]") {
  const TemporaryDir dir;
  const auto path = dir.path() / "db";
  {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const std::string junk(8192, 'x');
    REQUIRE(::write(fd.get(), junk.data(), junk.size()) == 8192);
  }
  CHECK(code_of([&] { static_cast<void>(open_sqlite_metadata(path)); }) == "metadata.corrupt");
  CHECK(code_of([&] { static_cast<void>(open_sqlite_metadata(dir.path() / "no" / "db")); }) ==
        "metadata.sqlite");
}
