#include "sqlite_connection.hpp"

#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/store/nix_database.hpp>

#include <fmt/format.h>

#include <map>

namespace nixbuild::store {

namespace {

/// The tables that Nix's programs read, by the names and columns they know; seen in databases that
/// Nix 2.8.0 and 2.26.3 have made.
constexpr const char* kTables = R"(
create table ValidPaths (
  id               integer primary key autoincrement not null,
  path             text unique not null,
  hash             text not null,
  registrationTime integer not null,
  deriver          text,
  narSize          integer,
  ultimate         integer,
  sigs             text,
  ca               text
);
create table Refs (
  referrer  integer not null,
  reference integer not null,
  primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict
);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create trigger DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table DerivationOutputs (
  drv  integer not null,
  id   text not null,
  path text not null,
  primary key (drv, id),
  foreign key (drv) references ValidPaths(id) on delete cascade
);
create index IndexDerivationOutputs on DerivationOutputs(path);
)";

} // namespace

std::string nix_database(const model::StoreDir& dir, std::span<const model::PathInfo> paths) {
  SqliteOptions options;
  options.durable = false;
  Connection database(":memory:", options, true);
  database.execute(kTables);
  database.execute("begin");
  std::map<model::StorePath, std::int64_t> rows;
  Query add(database,
            "insert into ValidPaths (path, hash, registrationTime, deriver, narSize, ca) "
            "values (?, ?, 1, ?, ?, ?)");
  for (const auto& info : paths) {
    const auto path = dir.print(info.path);
    const auto hash = fmt::format("sha256:{}", model::hash_hex(info.nar_hash));
    const auto deriver = info.deriver ? dir.print(*info.deriver) : std::string();
    add.bind(0, path).bind(1, hash).bind(3, static_cast<std::int64_t>(info.nar_size));
    info.deriver ? add.bind(2, deriver) : add.bind_null(2);
    info.content_address.empty() ? add.bind_null(4) : add.bind(4, info.content_address);
    add.run();
    add.reset();
    rows.emplace(info.path, database.last_row());
  }
  Query refer(database, "insert into Refs (referrer, reference) values (?, ?)");
  for (const auto& info : paths) {
    for (const auto& reference : info.references) {
      const auto found = rows.find(reference);
      if (found != rows.end()) {
        refer.bind(0, rows.at(info.path)).bind(1, found->second);
        refer.run();
        refer.reset();
      }
    }
  }
  database.execute("commit");
  return database.image();
}

} // namespace nixbuild::store
