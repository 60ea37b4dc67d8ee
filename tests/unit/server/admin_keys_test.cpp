#include "admin_rig.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/server/key_list.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <fstream>
#include <sstream>

namespace admin_keys_test {

using namespace nixbuild;
using test::Fixture;
namespace json = boost::json;

namespace {

const std::string kKind = "ssh-ed25519";
const std::string kBase64 = "AAAAC3NzaC1lZDI1NTE5AAAAIHn5D/H1v+mD5IS/7ZbwbZp31aHHe/Gv/1I+LMIETitF";
const std::string kPublic = kKind + " " + kBase64 + " you@host";
const std::string kFingerprint = "SHA256:guKesSdV0XCjOtTcHjeDBdtH27/bUnHmOEJJafEEf/M";

server::Handoff as_key(std::int64_t id) {
  server::Handoff handoff;
  handoff.key = id;
  return handoff;
}

std::vector<server::ListedKey> listed(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return server::parse_key_list(text.str());
}

} // namespace

TEST_CASE("administration: keys are added, listed, changed and removed", "[server][admin]") {
  const tests::ScratchFolder scratch;
  const auto file = scratch.path() / "keys";
  Fixture f({{}, {file}, {}});
  const auto added = f.run({"key",
                            "add",
                            "--name=my laptop",
                            "--permission=store:read",
                            "--permission",
                            "build:read,build:write",
                            "--tag=TEAM=red",
                            "--tag=USE=ci",
                            "--expires=30d",
                            "--json",
                            kKind,
                            kBase64,
                            "you@host"});
  CAPTURE(added.err);
  REQUIRE(added.status == 0);
  const auto told = added.json();
  const auto id = told.at("id").as_int64();
  CHECK(told.at("name") == json::value("my laptop"));
  CHECK(told.at("algorithm") == json::value(kKind));
  CHECK(told.at("fingerprint") == json::value(kFingerprint));
  CHECK(told.at("publicKey") == json::value(kKind + " " + kBase64));
  CHECK(told.at("permissions") == json::array{"store:read", "build:read", "build:write"});
  CHECK(told.at("defaultPermissions") == json::value(false));
  CHECK(told.at("tags") == json::object{{"TEAM", "red"}, {"USE", "ci"}});
  CHECK(told.at("expired") == json::value(false));
  CHECK(told.at("lastUsed").is_null());
  const auto stored = f.db->key(f.account, id);
  REQUIRE(stored);
  CHECK(std::abs(stored->expires_at - f.desk.now() - 30 * 86400) < 100);
  REQUIRE(listed(file).size() == 1);
  CHECK(listed(file)[0].base64 == kBase64);

  CHECK(f.run({"key", "list", "--json"}).json().at(0).at("id") == json::value(id));
  const auto table = f.run({"key", "list"}).out;
  CHECK(table.find(kFingerprint) != std::string::npos);
  CHECK(table.find("TEAM=red USE=ci") != std::string::npos);
  CHECK(table.find("store:read build:read build:write") != std::string::npos);

  const auto number = std::to_string(id);
  CHECK(
      f.run({"key", "set", number, "--permission=default", "--tag=TEAM=", "--expires=never"}).out ==
      "key " + number + " changed\n");
  const auto changed = f.run({"key", "list", "--json"}).json().at(0);
  CHECK(changed.at("defaultPermissions") == json::value(true));
  CHECK(changed.at("permissions").as_array().size() == 4);
  CHECK(changed.at("tags") == json::object{{"USE", "ci"}});
  CHECK(changed.at("expires").is_null());
  CHECK(changed.at("name") == json::value("my laptop"));
  CHECK(f.run({"key", "set", number, "--name=new", "--json"}).json().at("name") ==
        json::value("new"));
  CHECK(f.run({"key", "set", number, "--permission=none", "--json"})
            .json()
            .at("permissions")
            .as_array()
            .empty());
  CHECK(f.run({"key", "list"}).out.find(" none ") != std::string::npos);

  CHECK(f.run({"key", "remove", number}).status == 0);
  CHECK(listed(file).empty());
  CHECK(f.run({"key", "remove", number}).status == 4);
  CHECK(f.run({"key", "set", number, "--name=x"}).status == 4);
}

TEST_CASE("administration: a key is taken from the input and from one quoted word",
          "[server][admin]") {
  Fixture f;
  CHECK(f.feed("# mine\n" + kPublic + "\n", {"key", "add", "-"}, false).status == 0);
  CHECK(f.db->keys(f.account).at(0).name == "you@host");
  const auto twice = f.run({"key", "add", kPublic});
  CHECK(twice.status == 1);
  CHECK(twice.err.find("is there already") != std::string::npos);
  f.db->ensure_account("other");
  const auto elsewhere = f.run({"key", "add", kPublic}, false, "other");
  CHECK(elsewhere.status == 1);
  CHECK(elsewhere.err.find("belongs to another account") != std::string::npos);
  CHECK(elsewhere.err.find("default") == std::string::npos);
  CHECK(f.feed(std::string(20'000, '#'), {"key", "add", "-"}, false).status == 1);
}

TEST_CASE("administration: words about keys that make no sense are usage errors",
          "[server][admin][reject]") {
  Fixture f;
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"key", "add"},
           {"key", "add", "id_ed25519.pub"},
           {"key", "add", "--expires=soon", kPublic},
           {"key", "add", "--expires=30", kPublic},
           {"key", "add", "--expires=0d", kPublic},
           {"key", "add", "--expires=2001-01-01", kPublic},
           {"key", "add", "--expires=2999-02-30", kPublic},
           {"key", "add", "--expires=2999-01-01T24:00:00Z", kPublic},
           {"key", "add", "--expires=2999-01-01 10:00:00Z", kPublic},
           {"key", "add", "--tag=TEAM", kPublic},
           {"key", "add", "--name=a\x1b", kPublic},
           {"key", "add", "--name=" + std::string(101, 'x'), kPublic},
           {"key", "set", "1"},
           {"key", "set", "one", "--name=x"},
           {"key", "remove", "0"},
           {"key", "remove", "-1"}}) {
    const auto outcome = f.run(words);
    CAPTURE(words, outcome.err);
    CHECK(outcome.status == 2);
  }
  for (const auto& words :
       std::vector<std::vector<std::string>>{{"key", "add", "--permission=write", kPublic},
                                             {"key", "add", "--tag=team=x", kPublic},
                                             {"key", "add", "restrict " + kPublic},
                                             {"key", "add", kKind, "AAAA"}}) {
    const auto outcome = f.run(words);
    CAPTURE(words, outcome.err);
    CHECK(outcome.status == 1);
  }
  CHECK(f.run({"key", "add", "restrict " + kPublic}).err.find("leave them out") !=
        std::string::npos);
  CHECK(f.db->keys(f.account).empty());
  const auto dated = f.run({"key", "add", "--expires=2999-01-31T12:00:00Z", "--json", kPublic});
  CHECK(dated.json().at("expires") == json::value("2999-01-31T12:00:00Z"));
}

TEST_CASE("administration: an account with keys is not removed by mistake", "[server][admin]") {
  const tests::ScratchFolder scratch;
  Fixture f({{}, {scratch.path() / "keys"}, {}});
  f.db->ensure_account("team-a");
  CHECK(f.run({"key", "add", kPublic}, false, "team-a").status == 0);
  const auto in_use = f.run({"account", "remove", "team-a"});
  CHECK(in_use.status == 1);
  CHECK(in_use.err.find("0 store paths and 1 keys") != std::string::npos);
  CHECK(f.run({"account", "remove", "team-a", "--force", "--json"}).json().at("keys") ==
        json::value(1));
  CHECK(listed(scratch.path() / "keys").empty());
}

TEST_CASE("administration: a session over SSH may do what its key may", "[server][admin][reject]") {
  Fixture f;
  store::SshKey key;
  key.account = f.account;
  key.blob = "other";
  key.id = f.db->add_key(key);
  f.as = as_key(key.id);
  // The usual permissions: everything may be seen, and nothing about the account changed.
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"builds"}, {"path", "list"}, {"key", "list"}, {"settings", "show"}}) {
    CAPTURE(words);
    CHECK(f.run(words, true).status == 0);
  }
  const std::vector<std::vector<std::string>> changes{{"key", "add", kPublic},
                                                      {"key", "set", "1", "--name=x"},
                                                      {"key", "remove", "1"},
                                                      {"settings", "set", "max-cpu", "4"},
                                                      {"settings", "unset", "max-cpu"}};
  for (const auto& words : changes) {
    const auto outcome = f.run(words, true);
    CAPTURE(words, outcome.err);
    CHECK(outcome.status == 3);
    CHECK(outcome.err.find("account:write") != std::string::npos);
  }
  key.permissions = "account:write";
  f.db->update_key(key);
  for (const auto& words : std::vector<std::vector<std::string>>{{"builds"}, {"log", "1"}}) {
    const auto outcome = f.run(words, true);
    CHECK(outcome.status == 3);
    CHECK(outcome.err.find("build:read") != std::string::npos);
  }
  CHECK(f.run({"path", "list"}, true).err.find("store:read") != std::string::npos);
  CHECK(f.feed(kPublic, {"key", "add", "-"}, true).status == 0);
  CHECK(f.run({"settings", "set", "max-cpu", "4"}, true).status == 0);
  // Nor may one account's key be used for another one, or a removed key at all.
  f.db->ensure_account("other");
  CHECK(f.run({"key", "list"}, true, "other").status == 3);
  CHECK(f.run({"account", "list"}, true, "other").status == 3);
  CHECK(f.run({"key", "remove", std::to_string(key.id)}, true).status == 0);
  CHECK(f.run({"key", "list"}, true).status == 3);
  CHECK(f.run({"key", "list"}, false, "nobody").status == 4);
  CHECK(f.run({"key", "list"}, true, "nobody").status == 4);
}

TEST_CASE("administration: the shell over SSH can be switched off", "[server][admin][reject]") {
  Fixture f;
  f.db->set_account_setting(f.account, "allow-shell", "false");
  const auto refused = f.run({"builds"}, true);
  CHECK(refused.status == 3);
  CHECK(refused.err.find("allow-shell") != std::string::npos);
  CHECK(f.run({"builds"}).status == 0);
  store::SshKey key;
  key.account = f.account;
  key.blob = "other";
  key.id = f.db->add_key(key);
  f.as = as_key(key.id);
  CHECK(f.run({"builds"}, true).status == 3);
  f.db->set_key_setting(f.account, key.id, "allow-shell", "true");
  CHECK(f.run({"builds"}, true).status == 0);
}

TEST_CASE("administration: without a desk for accounts there is none", "[server][admin][reject]") {
  Fixture f;
  f.parts.accounts = nullptr;
  const auto outcome = f.run({"key", "list"});
  CHECK(outcome.status == 70);
  CHECK(outcome.err.find("keeps no keys and settings") != std::string::npos);
}

} // namespace admin_keys_test
