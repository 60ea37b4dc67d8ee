#include "sqlite_keys.hpp"

#include "metadata_rules.hpp"

namespace nixbuild::store {

namespace {

constexpr const char* kSelectKey =
    "select id, account, algorithm, blob, name, permissions, expires_at, created_at, last_used_at "
    "from Keys where account = ? and id = ?";
constexpr const char* kSelectKeyOfBlob =
    "select id, account, algorithm, blob, name, permissions, expires_at, created_at, last_used_at "
    "from Keys where blob = ?";
constexpr const char* kSelectKeys =
    "select id, account, algorithm, blob, name, permissions, expires_at, created_at, last_used_at "
    "from Keys where account = ? order by id";

SshKey key_of_row(const Query& query) {
  SshKey key;
  key.id = query.integer(0);
  key.account = AccountId{query.integer(1)};
  key.algorithm = query.text(2);
  const auto blob = query.blob(3);
  key.blob.assign(blob.begin(), blob.end());
  key.name = query.text(4);
  if (!query.is_null(5)) {
    key.permissions = query.text(5);
  }
  key.expires_at = query.integer(6);
  key.created_at = query.integer(7);
  key.last_used_at = query.integer(8);
  return key;
}

void read_tags(Connection& connection, SshKey& key) {
  Query query(connection, "select name, value from KeyTags where key = ?");
  query.bind(0, key.id);
  while (query.step()) {
    key.tags.emplace(query.text(0), query.text(1));
  }
}

void write_tags(Connection& connection, std::int64_t id, const SshKey& key) {
  for (const auto& [name, value] : key.tags) {
    Query(connection, "insert into KeyTags (key, name, value) values (?, ?, ?)")
        .bind(0, id)
        .bind(1, name)
        .bind(2, value)
        .run();
  }
}

void bind_permissions(Query& query, int index, const SshKey& key) {
  if (key.permissions) {
    query.bind(index, *key.permissions);
  } else {
    query.bind_null(index);
  }
}

void expect_account(Connection& connection, AccountId account) {
  Query query(connection, "select 1 from Accounts where id = ?");
  if (!query.bind(0, account.value).step()) {
    throw_unknown_account(account);
  }
}

void expect_key(Connection& connection, AccountId account, std::int64_t id) {
  Query query(connection, "select 1 from Keys where account = ? and id = ?");
  if (!query.bind(0, account.value).bind(1, id).step()) {
    throw_unknown_key(id);
  }
}

StoredSettings read_settings(Query& query) {
  StoredSettings settings;
  while (query.step()) {
    settings.emplace(query.text(0), query.text(1));
  }
  return settings;
}

} // namespace

std::int64_t insert_key(Connection& connection, const SshKey& key) {
  expect_account(connection, key.account);
  if (const auto holder = select_key_of_blob(connection, key.blob)) {
    throw_key_taken(key.account, *holder);
  }
  Query query(connection,
              "insert into Keys (account, algorithm, blob, name, permissions, expires_at, "
              "created_at, last_used_at) values (?, ?, ?, ?, ?, ?, ?, ?)");
  query.bind(0, key.account.value)
      .bind(1, key.algorithm)
      .bind(2, bytes_of(key.blob))
      .bind(3, key.name);
  bind_permissions(query, 4, key);
  query.bind(5, key.expires_at).bind(6, key.created_at).bind(7, key.last_used_at).run();
  const auto id = connection.last_row();
  write_tags(connection, id, key);
  return id;
}

void replace_key(Connection& connection, const SshKey& key) {
  expect_key(connection, key.account, key.id);
  Query query(connection, "update Keys set name = ?, permissions = ?, expires_at = ? where id = ?");
  query.bind(0, key.name);
  bind_permissions(query, 1, key);
  query.bind(2, key.expires_at).bind(3, key.id).run();
  Query(connection, "delete from KeyTags where key = ?").bind(0, key.id).run();
  write_tags(connection, key.id, key);
}

void delete_key(Connection& connection, AccountId account, std::int64_t id) {
  expect_key(connection, account, id);
  Query(connection, "delete from KeyTags where key = ?").bind(0, id).run();
  Query(connection, "delete from KeySettings where key = ?").bind(0, id).run();
  Query(connection, "delete from Keys where id = ?").bind(0, id).run();
}

void delete_keys_of(Connection& connection, AccountId account) {
  for (const auto& key : select_keys(connection, account)) {
    delete_key(connection, account, key.id);
  }
  Query(connection, "delete from AccountSettings where account = ?").bind(0, account.value).run();
}

std::optional<SshKey> select_key(Connection& connection, AccountId account, std::int64_t id) {
  Query query(connection, kSelectKey);
  query.bind(0, account.value).bind(1, id);
  if (!query.step()) {
    return std::nullopt;
  }
  auto key = key_of_row(query);
  read_tags(connection, key);
  return key;
}

std::optional<SshKey> select_key_of_blob(Connection& connection, std::string_view blob) {
  Query query(connection, kSelectKeyOfBlob);
  query.bind(0, bytes_of(blob));
  if (!query.step()) {
    return std::nullopt;
  }
  auto key = key_of_row(query);
  read_tags(connection, key);
  return key;
}

std::vector<SshKey> select_keys(Connection& connection, AccountId account) {
  std::vector<SshKey> keys;
  {
    Query query(connection, kSelectKeys);
    query.bind(0, account.value);
    while (query.step()) {
      keys.push_back(key_of_row(query));
    }
  }
  for (auto& key : keys) {
    read_tags(connection, key);
  }
  return keys;
}

StoredSettings select_account_settings(Connection& connection, AccountId account) {
  Query query(connection, "select name, value from AccountSettings where account = ?");
  query.bind(0, account.value);
  return read_settings(query);
}

StoredSettings select_key_settings(Connection& connection, AccountId account, std::int64_t key) {
  Query query(connection,
              "select KeySettings.name, KeySettings.value from KeySettings join Keys on "
              "Keys.id = KeySettings.key where Keys.account = ? and Keys.id = ?");
  query.bind(0, account.value).bind(1, key);
  return read_settings(query);
}

void put_account_setting(Connection& connection,
                         AccountId account,
                         std::string_view name,
                         std::optional<std::string_view> value) {
  expect_account(connection, account);
  if (value) {
    Query(connection,
          "insert or replace into AccountSettings (account, name, value) values (?, ?, ?)")
        .bind(0, account.value)
        .bind(1, name)
        .bind(2, *value)
        .run();
  } else {
    Query(connection, "delete from AccountSettings where account = ? and name = ?")
        .bind(0, account.value)
        .bind(1, name)
        .run();
  }
}

void put_key_setting(Connection& connection,
                     AccountId account,
                     std::int64_t key,
                     std::string_view name,
                     std::optional<std::string_view> value) {
  expect_key(connection, account, key);
  if (value) {
    Query(connection, "insert or replace into KeySettings (key, name, value) values (?, ?, ?)")
        .bind(0, key)
        .bind(1, name)
        .bind(2, *value)
        .run();
  } else {
    Query(connection, "delete from KeySettings where key = ? and name = ?")
        .bind(0, key)
        .bind(1, name)
        .run();
  }
}

} // namespace nixbuild::store
