#include "admin_rig.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/server/key_list.hpp>

#include <sys/stat.h>

#include <fstream>
#include <sstream>

namespace accounts_test {

using namespace nixbuild;
using server::Permission;
using server::Permissions;
using test::Fixture;

namespace {

store::SshKey key_for(const Fixture& f, const std::string& blob) {
  store::SshKey key;
  key.account = f.account;
  key.algorithm = "ssh-ed25519";
  key.blob = blob;
  key.name = "a laptop";
  return key;
}

server::Handoff with_key(std::int64_t key, bool limited = true) {
  server::Handoff handoff;
  handoff.key = key;
  handoff.limited = limited;
  return handoff;
}

std::string code_of(Fixture& f, const server::Handoff& handoff) {
  try {
    (void)f.desk.identify(handoff);
  } catch (const Error& error) {
    return error.code();
  }
  return {};
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

constexpr std::string_view kUsual = "store:read store:write build:read build:write";

} // namespace

TEST_CASE("identity: without a key, who opens the socket himself may do everything", "[server]") {
  Fixture f;
  const auto local = f.desk.identify(with_key(0, false));
  CHECK(local.permissions == Permissions::all());
  CHECK(local.account == f.account);
  CHECK(local.account_name == "default");
  CHECK(local.key == 0);
  CHECK(f.desk.identify(with_key(0)).permissions.text() == kUsual);
  f.db->set_account_setting(f.account, "default-permissions", "store:read");
  CHECK(f.desk.identify(with_key(0)).permissions.text() == "store:read");
  CHECK(f.desk.identify(with_key(0, false)).permissions == Permissions::all());
}

TEST_CASE("identity: a key has its own permissions or the account's, locally too", "[server]") {
  Fixture f({{{"max-cpu", "8"}}, {}, {}});
  auto key = key_for(f, "blob");
  key.tags = {{"TEAM", "red"}};
  key.id = f.db->add_key(key);
  f.db->set_account_setting(f.account, "timeout", "60");
  f.db->set_key_setting(f.account, key.id, "priority", "3");
  const auto usual = f.desk.identify(with_key(key.id, false));
  CHECK(usual.permissions.text() == kUsual);
  CHECK(usual.key == key.id);
  CHECK(usual.key_name == "a laptop");
  CHECK(usual.layers.system.at("max-cpu") == "8");
  CHECK(usual.layers.account.at("timeout") == "60");
  CHECK(usual.layers.key.at("priority") == "3");
  CHECK(usual.layers.key_tags.at("TEAM") == "red");
  key.permissions = "build:read account:write";
  f.db->update_key(key);
  CHECK(f.desk.identify(with_key(key.id)).permissions ==
        Permissions{Permission::BuildRead, Permission::AccountWrite});
  key.permissions = "";
  f.db->update_key(key);
  CHECK(f.desk.identify(with_key(key.id)).permissions == Permissions());
}

TEST_CASE("identity: unknown, foreign and expired keys are refused", "[server][reject]") {
  Fixture f;
  auto key = key_for(f, "blob");
  key.expires_at = f.desk.now() + 100;
  key.id = f.db->add_key(key);
  CHECK(code_of(f, with_key(key.id)).empty());
  CHECK(code_of(f, with_key(key.id + 1)) == "key.refused");
  f.db->ensure_account("other");
  auto foreign = with_key(key.id);
  foreign.account = "other";
  CHECK(code_of(f, foreign) == "key.refused");
  auto nobody = with_key(0);
  nobody.account = "nobody\x1b";
  CHECK(code_of(f, nobody) == "account.missing");
  f.clock.ahead = std::chrono::seconds(101);
  CHECK(code_of(f, with_key(key.id)) == "key.expired");
  f.db->remove_key(f.account, key.id);
  CHECK(code_of(f, with_key(key.id)) == "key.refused");
}

TEST_CASE("identity: the time of a key's use is noted, not at every session", "[server]") {
  Fixture f;
  const auto id = f.db->add_key(key_for(f, "blob"));
  (void)f.desk.identify(with_key(id));
  const auto first = f.db->key(f.account, id)->last_used_at;
  CHECK(first > 0);
  f.clock.ahead = std::chrono::seconds(30);
  (void)f.desk.identify(with_key(id));
  CHECK(f.db->key(f.account, id)->last_used_at == first);
  f.clock.ahead = std::chrono::seconds(100);
  (void)f.desk.identify(with_key(id));
  CHECK(f.db->key(f.account, id)->last_used_at > first);
}

TEST_CASE("key list: every place gets it, readable, and in one step", "[server]") {
  const tests::ScratchFolder scratch;
  const auto first = scratch.path() / "one";
  const auto second = scratch.path() / "two";
  Fixture f({{}, {first, second}, {}});
  auto key = key_for(f, "blob");
  key.expires_at = 77;
  key.id = f.db->add_key(key);
  const auto mask = ::umask(0077);
  f.desk.publish_keys();
  ::umask(mask);
  CHECK(read(first) == read(second));
  const auto list = server::parse_key_list(read(first));
  REQUIRE(list.size() == 1);
  CHECK(list[0].id == key.id);
  CHECK(list[0].account == "default");
  CHECK(list[0].expires_at == 77);
  CHECK(list[0].base64 == base64_encode(bytes_of("blob")));
  CHECK(list[0].name == "a laptop");

  struct stat info {};

  REQUIRE(::stat(first.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0644);
  CHECK_FALSE(std::filesystem::exists(first.string() + ".new"));
  Fixture lost({{}, {scratch.path() / "missing" / "keys"}, {}});
  try {
    lost.desk.publish_keys();
    FAIL("written");
  } catch (const Error& error) {
    CHECK(error.code() == "keys.publish");
    CHECK(error.message().find("missing/keys") != std::string::npos);
  }
}

TEST_CASE("key list: round trip, and damage is told with its line", "[server][roundtrip][reject]") {
  const std::vector<server::ListedKey> keys{{1, "default", 0, "ssh-ed25519", "AAAA", ""},
                                            {22, "team-a", 99, "ssh-rsa", "BBBB", "two words"}};
  const auto text = server::print_key_list(keys);
  CHECK(server::parse_key_list(text) == keys);
  CHECK(server::parse_key_list(server::print_key_list({})).empty());
  for (const auto& bad : {std::string(),
                          std::string("nixbuild-keys 2\n"),
                          std::string("nixbuild-keys 1"),
                          text.substr(0, text.size() - 1),
                          std::string("nixbuild-keys 1\n1 default 0 ssh-ed25519\n"),
                          std::string("nixbuild-keys 1\nx default 0 ssh-ed25519 AAAA\n"),
                          std::string("nixbuild-keys 1\n1 default -1 ssh-ed25519 AAAA\n"),
                          std::string("nixbuild-keys 1\n\n")}) {
    CAPTURE(bad);
    try {
      (void)server::parse_key_list(bad);
      FAIL("read");
    } catch (const Error& error) {
      CHECK(error.code() == "keys.malformed");
    }
  }
}

TEST_CASE("key list: a login finds its own key until it expires", "[server]") {
  const std::vector<server::ListedKey> keys{{1, "default", 0, "ssh-ed25519", "AAAA", "x"},
                                            {2, "team-a", 100, "ssh-ed25519", "BBBB", "y"}};
  CHECK(server::key_for_login(keys, "ssh-ed25519", "AAAA", 1'000'000)->id == 1);
  CHECK(server::key_for_login(keys, "ssh-ed25519", "BBBB", 99)->id == 2);
  CHECK_FALSE(server::key_for_login(keys, "ssh-ed25519", "BBBB", 100));
  CHECK_FALSE(server::key_for_login(keys, "ssh-rsa", "AAAA", 1));
  CHECK_FALSE(server::key_for_login(keys, "ssh-ed25519", "AAA", 1));
  CHECK_FALSE(server::key_for_login(keys, "ssh-ed25519", "", 1));
}

TEST_CASE("key list: the line for authorized_keys survives blanks and quotes", "[server]") {
  const server::ListedKey key{7, "team-a", 0, "ssh-ed25519", "AAAA", "you@host"};
  const std::vector<std::string> plain{"/usr/bin/nixbuild-serve"};
  CHECK(
      server::authorized_keys_line(key, plain) ==
      "restrict,pty,command=\"/usr/bin/nixbuild-serve --account team-a --key 7\" ssh-ed25519 AAAA "
      "you@host\n");
  const std::vector<std::string> odd{"serve", "--state-dir", "/a b/\"c'"};
  CHECK(server::authorized_keys_line(key, odd) ==
        "restrict,pty,command=\"serve --state-dir '/a b/\\\"c'\\'''"
        " --account team-a --key 7\" "
        "ssh-ed25519 AAAA you@host\n");
}

} // namespace accounts_test
