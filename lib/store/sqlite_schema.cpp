#include "sqlite_connection.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <array>

namespace nixbuild::store {

namespace {

/// What survives the daemon, and what later askers of a key are given.
constexpr const char* kOpenBuildsAndOutcomes = R"(
alter table Builds add column attempt integer not null default 0;
alter table Builds add column build_key blob;                -- 32 bytes; null: not known
alter table Builds add column reused integer not null default 0;
alter table Builds add column of_another integer not null default 0;
update Builds set status = 6, error = 'interrupted: the daemon ended first' where status is null;
create table OpenBuilds (
  build integer primary key,
  attempt integer not null,
  plan text not null,
  log_base integer not null,
  request blob not null
);
create table Outcomes (
  id integer primary key,
  account integer not null,
  build_key blob not null,
  build integer not null,
  status integer not null,
  error text not null,
  shared integer not null,
  timeout_seconds integer not null,
  silence_seconds integer not null
);
create unique index OutcomesByKey on Outcomes (build_key, account);
create table OutcomeOutputs (
  outcome integer not null,
  path text not null,
  nar_hash blob not null,
  nar_size integer not null,
  refs text not null,                 -- base names, separated by blanks
  content_address text not null,
  primary key (outcome, path)
) without rowid;
)";

/// Who asked for a build, and what it took of the disk.
constexpr const char* kBuildsByKeyAndTag = R"(
alter table Builds add column ssh_key text not null default '';
alter table Builds add column tags text not null default '';  -- separated by line feeds
alter table Builds add column disk_bytes integer not null default 0;
alter table Builds add column output_bytes integer not null default 0;
)";

/// Where outputs came out whose paths do not follow from their derivations.
constexpr const char* kRealisations = R"(
create table Realisations (
  account integer not null,
  derivation text not null,           -- 64 hexadecimal digits, or base name of the .drv
  output text not null,
  self_references integer not null,   -- the form in which they are hashed
  path integer not null,
  signatures text not null,           -- separated by blanks
  primary key (account, derivation, output, self_references)
) without rowid;
create index RealisationsByPath on Realisations (path);
)";

/// To forget what is old.
constexpr const char* kBuildsByAge = R"(
create index BuildsByEnd on Builds (stopped_us);
create index OutcomesByBuild on Outcomes (build);
)";

/// What a build has made.
constexpr const char* kBuildsWithOutputs = R"(
alter table Builds add column outputs text not null default '';  -- a line for each
)";

/// What the asker's session did around a build.
constexpr const char* kBuildsInSessions = R"(
alter table Builds add column session text not null default '';  -- six times: connect, query, upload
alter table Builds add column sent_from_us integer not null default 0;
alter table Builds add column sent_to_us integer not null default 0;
)";

/// What lifts a database from version i to version i + 1. Never edited after a release: changes are
/// new entries. Accounts', keys' and builds' numbers are never used twice: sessions, logs and bills
/// keep them. A path's row number is private to this database.
constexpr std::array kMigrations{
    R"(
create table Accounts (
  id integer primary key autoincrement,
  name text not null unique
);
create table Paths (
  id integer primary key,
  account integer not null,
  key blob not null,                  -- 20 bytes, orders as the hash part does
  name text not null,
  nar_hash blob not null,             -- 32 bytes, SHA-256
  nar_size integer not null,
  registration_time integer not null, -- seconds since 1970
  ultimate integer not null,
  deriver text,
  signatures text,                    -- separated by blanks
  content_address text
);
create unique index PathsByKey on Paths (account, key, name);
create index PathsByNarHash on Paths (substr(nar_hash, 1, 8));
create table Refs (
  referrer integer not null,
  reference integer not null,
  primary key (referrer, reference)
) without rowid;
create index RefsByReference on Refs (reference);
)",
    R"(
create table Builds (
  id integer primary key autoincrement,
  account integer not null,
  derivation text not null,
  platform text not null,
  status integer,                     -- null while it runs
  error text not null,
  created_us integer not null,
  started_us integer not null,
  stopped_us integer not null,
  cpus integer not null,
  memory_bytes integer not null,
  peak_memory_bytes integer not null,
  cpu_us integer not null,
  log_bytes integer not null,
  accelerator text not null,
  phases text not null
);
create index BuildsByAccount on Builds (account, id);
)",
    R"(
create table Keys (
  id integer primary key autoincrement,
  account integer not null,
  algorithm text not null,
  blob blob not null unique,          -- one key, one account
  name text not null,
  permissions text,                   -- separated by blanks; null: as the account says
  expires_at integer not null,        -- seconds since 1970; 0: never
  created_at integer not null,
  last_used_at integer not null       -- 0: not yet
);
create index KeysByAccount on Keys (account, id);
create table KeyTags (
  key integer not null,
  name text not null,
  value text not null,
  primary key (key, name)
) without rowid;
create table AccountSettings (
  account integer not null,
  name text not null,
  value text not null,
  primary key (account, name)
) without rowid;
create table KeySettings (
  key integer not null,
  name text not null,
  value text not null,
  primary key (key, name)
) without rowid;
)",
    kOpenBuildsAndOutcomes,
    kBuildsByKeyAndTag,
    kRealisations,
    kBuildsByAge,
    kBuildsWithOutputs,
    kBuildsInSessions,
};
static_assert(kMigrations.size() == kSqliteSchemaVersion);

} // namespace

void bring_schema_up_to_date(Connection& connection, const std::filesystem::path& path) {
  connection.execute("begin immediate");
  try {
    std::int64_t version = 0;
    {
      Query query(connection, "pragma user_version");
      query.step();
      version = query.integer(0);
    }
    if (version < 0 || version > kSqliteSchemaVersion) {
      throw Error(Reaction::Unsupported,
                  "metadata.newer",
                  fmt::format("{} has schema version {}; this program knows versions up to {}",
                              path.string(),
                              version,
                              kSqliteSchemaVersion));
    }
    for (auto next = static_cast<std::size_t>(version); next < kMigrations.size(); ++next) {
      connection.execute(kMigrations[next]);
    }
    connection.execute(fmt::format("pragma user_version = {}", kSqliteSchemaVersion).c_str());
    connection.execute("commit");
  } catch (...) {
    if (!connection.idle()) {
      connection.execute("rollback");
    }
    throw;
  }
}

} // namespace nixbuild::store
