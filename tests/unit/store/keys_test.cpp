#include "fixture.hpp"

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

SshKey key_for(AccountId account, const std::string& blob) {
  SshKey key;
  key.account = account;
  key.algorithm = "ssh-ed25519";
  key.blob = blob;
  key.name = "laptop";
  key.created_at = 1000;
  return key;
}

} // namespace

TEST_CASE("keys: all fields of a key come back and may be changed", "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  auto key = key_for(base.a, std::string("with a \0 byte \xff", 15));
  key.permissions = "store:read build:read";
  key.tags = {{"TEAM", "red"}, {"USE", "ci"}};
  key.expires_at = 2000;
  key.id = base.db->add_key(key);
  CHECK(base.db->key(base.a, key.id) == key);
  CHECK(base.db->find_key(key.blob) == key);
  CHECK(base.db->keys(base.a) == std::vector<SshKey>{key});

  key.name = "desktop";
  key.permissions.reset();
  key.tags = {{"TEAM", "blue"}};
  key.expires_at = 0;
  base.db->update_key(key);
  base.db->touch_key(base.a, key.id, 1500);
  key.last_used_at = 1500;
  CHECK(base.db->key(base.a, key.id) == key);
  key.permissions = ""; // none, which is not the same as no word about them
  base.db->update_key(key);
  CHECK(base.db->key(base.a, key.id) == key);

  base.db->remove_key(base.a, key.id);
  CHECK_FALSE(base.db->key(base.a, key.id));
  CHECK_FALSE(base.db->find_key(key.blob));
  CHECK(code_of([&] { base.db->remove_key(base.a, key.id); }) == "key.unknown");
  CHECK(code_of([&] { base.db->update_key(key); }) == "key.unknown");
  base.db->touch_key(base.a, key.id, 1600);
  CHECK(base.db->add_key(key) != key.id);
}

TEST_CASE("keys: one key belongs to one account", "[store][reject]") {
  Database base(GENERATE(false, true));
  const auto key = key_for(base.a, "blob");
  const auto id = base.db->add_key(key);
  CHECK(code_of([&] { base.db->add_key(key); }) == "key.taken");
  try {
    base.db->add_key(key_for(base.b, "blob"));
    FAIL("added twice");
  } catch (const Error& error) {
    CHECK(error.code() == "key.taken");
    CHECK(error.message().find("alice") == std::string::npos);
    CHECK(error.message().find(std::to_string(id)) == std::string::npos);
  }
  CHECK(code_of([&] { base.db->add_key(key_for(AccountId{99}, "other")); }) == "account.unknown");
  CHECK(base.db->find_key("blob")->account == base.a);
}

TEST_CASE("keys: accounts see and change nothing of each other's keys", "[store]") {
  Database base(GENERATE(false, true));
  auto key = key_for(base.a, "blob");
  key.id = base.db->add_key(key);
  base.db->set_key_setting(base.a, key.id, "max-cpu", "4");
  CHECK_FALSE(base.db->key(base.b, key.id));
  CHECK(base.db->keys(base.b).empty());
  CHECK(base.db->key_settings(base.b, key.id).empty());
  CHECK(code_of([&] { base.db->remove_key(base.b, key.id); }) == "key.unknown");
  CHECK(code_of([&] { base.db->set_key_setting(base.b, key.id, "max-cpu", "5"); }) ==
        "key.unknown");
  base.db->touch_key(base.b, key.id, 7);
  CHECK(base.db->key(base.a, key.id) == key);
  auto stolen = key;
  stolen.account = base.b;
  CHECK(code_of([&] { base.db->update_key(stolen); }) == "key.unknown");
}

TEST_CASE("keys: settings of accounts and keys are kept apart", "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  const auto first = base.db->add_key(key_for(base.a, "one"));
  const auto second = base.db->add_key(key_for(base.a, "two"));
  base.db->set_account_setting(base.a, "max-cpu", "8");
  base.db->set_account_setting(base.a, "max-cpu", "9");
  base.db->set_account_setting(base.a, "timeout", "");
  base.db->set_key_setting(base.a, first, "max-cpu", "4");
  CHECK(base.db->account_settings(base.a) == StoredSettings{{"max-cpu", "9"}, {"timeout", ""}});
  CHECK(base.db->account_settings(base.b).empty());
  CHECK(base.db->key_settings(base.a, first) == StoredSettings{{"max-cpu", "4"}});
  CHECK(base.db->key_settings(base.a, second).empty());
  base.db->set_account_setting(base.a, "timeout", std::nullopt);
  base.db->set_account_setting(base.a, "timeout", std::nullopt);
  base.db->set_key_setting(base.a, first, "max-cpu", std::nullopt);
  CHECK(base.db->account_settings(base.a).size() == 1);
  CHECK(base.db->key_settings(base.a, first).empty());
  CHECK(code_of([&] { base.db->set_account_setting(AccountId{99}, "a", "b"); }) ==
        "account.unknown");
  CHECK(code_of([&] { base.db->set_key_setting(base.a, 99, "a", "b"); }) == "key.unknown");
}

TEST_CASE("keys: keys and settings go with their account", "[store]") {
  Database base(GENERATE(false, true));
  auto key = key_for(base.a, "blob");
  key.tags = {{"TEAM", "red"}};
  const auto id = base.db->add_key(key);
  base.db->set_account_setting(base.a, "max-cpu", "8");
  base.db->set_key_setting(base.a, id, "max-cpu", "4");
  base.db->remove_account(base.a);
  CHECK(base.db->keys(base.a).empty());
  CHECK(base.db->account_settings(base.a).empty());
  CHECK(base.db->key_settings(base.a, id).empty());
  CHECK_FALSE(base.db->find_key("blob"));
  CHECK(code_of([&] { base.db->remove_account(base.a); }) == "account.unknown");
  // The same key may go somewhere else then, and brings nothing along.
  const auto again = base.db->add_key(key_for(base.b, "blob"));
  CHECK(again != id);
  CHECK(base.db->key(base.b, again)->tags.empty());
  CHECK(base.db->key_settings(base.b, again).empty());
}

TEST_CASE("keys: keys and settings survive a restart", "[store]") {
  const TemporaryDir dir;
  SshKey key;
  {
    const auto db = open_sqlite_metadata(dir.path() / "db");
    key = key_for(db->ensure_account("a"), "blob");
    key.tags = {{"TEAM", "red"}};
    key.id = db->add_key(key);
    db->set_key_setting(key.account, key.id, "max-cpu", "4");
    db->set_account_setting(key.account, "timeout", "60");
  }
  const auto db = open_sqlite_metadata(dir.path() / "db");
  CHECK(db->key(key.account, key.id) == key);
  CHECK(db->key_settings(key.account, key.id) == StoredSettings{{"max-cpu", "4"}});
  CHECK(db->account_settings(key.account) == StoredSettings{{"timeout", "60"}});
}
