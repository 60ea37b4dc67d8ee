#pragma once

#include "sqlite_connection.hpp"

#include <nixbuild/store/metadata_db.hpp>

/// SSH keys and settings in SQLite. Each function runs in the transaction of its caller.
namespace nixbuild::store {

/// Errors `account.unknown`, `key.taken`.
[[nodiscard]] std::int64_t insert_key(Connection& connection, const SshKey& key);
/// Error `key.unknown`.
void replace_key(Connection& connection, const SshKey& key);
/// Error `key.unknown`.
void delete_key(Connection& connection, AccountId account, std::int64_t id);
/// Keys and settings of an account that is being removed.
void delete_keys_of(Connection& connection, AccountId account);
[[nodiscard]] std::optional<SshKey>
select_key(Connection& connection, AccountId account, std::int64_t id);
[[nodiscard]] std::optional<SshKey> select_key_of_blob(Connection& connection,
                                                       std::string_view blob);
[[nodiscard]] std::vector<SshKey> select_keys(Connection& connection, AccountId account);

[[nodiscard]] StoredSettings select_account_settings(Connection& connection, AccountId account);
[[nodiscard]] StoredSettings
select_key_settings(Connection& connection, AccountId account, std::int64_t key);
/// Error `account.unknown`.
void put_account_setting(Connection& connection,
                         AccountId account,
                         std::string_view name,
                         std::optional<std::string_view> value);
/// Error `key.unknown`.
void put_key_setting(Connection& connection,
                     AccountId account,
                     std::int64_t key,
                     std::string_view name,
                     std::optional<std::string_view> value);

} // namespace nixbuild::store
