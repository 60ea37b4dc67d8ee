#pragma once

#include "sqlite_connection.hpp"

#include <nixbuild/store/metadata_db.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

/// Questions and changes about builds, inside a transaction of the caller.
namespace nixbuild::store {

[[nodiscard]] std::int64_t insert_build(Connection& connection, const BuildRecord& record);
/// Error `build.unknown`.
void update_build_row(Connection& connection, const BuildRecord& record);
void update_sent(Connection& connection, AccountId account, std::int64_t id, TimeSpan sent);
[[nodiscard]] std::optional<BuildRecord>
select_build(Connection& connection, AccountId account, std::int64_t id);
[[nodiscard]] std::vector<BuildRecord>
select_builds(Connection& connection, AccountId account, std::size_t limit);
[[nodiscard]] std::uint64_t
select_cpu_time(Connection& connection, AccountId account, std::int64_t since_us);

[[nodiscard]] std::int64_t
insert_open_build(Connection& connection, const BuildRecord& record, std::string_view request);
[[nodiscard]] bool update_open_build(Connection& connection,
                                     const BuildRecord& record,
                                     std::string_view plan,
                                     std::uint64_t log_base);
[[nodiscard]] bool close_build(Connection& connection,
                               const BuildRecord& record,
                               std::span<const model::PathInfo> outputs,
                               const BuildOutcome* outcome);
[[nodiscard]] std::vector<OpenBuild> select_open_builds(Connection& connection);
[[nodiscard]] std::optional<BuildOutcome>
select_outcome(Connection& connection, AccountId account, const Hash& key, bool of_others);

void delete_builds_of(Connection& connection, AccountId account);
std::size_t delete_builds_before(Connection& connection, std::int64_t before_us, std::size_t limit);

} // namespace nixbuild::store
