#include "admin_rig.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

namespace admin_settings_test {

using namespace nixbuild;
using test::Fixture;
namespace json = boost::json;

namespace {

std::int64_t add_key(Fixture& f, const std::string& blob, const std::string& permissions) {
  store::SshKey key;
  key.account = f.account;
  key.blob = blob;
  key.permissions = permissions;
  return f.db->add_key(key);
}

/// The row of a setting in what `settings show --json` has printed.
json::value row_of(const json::value& rows, std::string_view name) {
  for (const auto& row : rows.as_array()) {
    if (row.at("name") == json::value(name)) {
      return row;
    }
  }
  FAIL("no row " << name);
  return {};
}

} // namespace

TEST_CASE("administration: settings are set, shown with their sources, and unset",
          "[server][admin]") {
  Fixture f({{{"max-cpu", "16"}}, {}, {}});
  const auto id = std::to_string(add_key(f, "blob", "store:read"));
  CHECK(f.run({"settings", "set", "max-cpu", "8"}).out ==
        "max-cpu = 8 (account 'default'; from account)\n");
  CHECK(f.run({"settings", "set", "max-cpu", "4", "--key", id}).out ==
        "max-cpu = 4 (account 'default', key " + id + "; from key)\n");
  CHECK(f.run({"settings", "set", "max-cpu", "32", "--key", id}).out ==
        "max-cpu = 8 (account 'default', key " + id + "; from account)\n");
  CHECK(f.run({"settings", "set", "--", "priority", "-5"}).status == 0);

  auto row = f.run({"settings", "show", "max-cpu", "--json", "--key", id}).json();
  CHECK(row.at("value") == json::value(8));
  CHECK(row.at("source") == json::value("account"));
  CHECK(row.at("overridden") == json::array{json::object{{"level", "key"}, {"value", 32}},
                                            json::object{{"level", "system"}, {"value", 16}}});
  const auto rows = f.run({"settings", "show", "--json"}).json();
  CHECK(rows.as_array().size() == server::kSettingCount);
  row = row_of(rows, "priority");
  CHECK(row.at("value") == json::value(-5));
  CHECK(row.at("unit").is_null());
  row = row_of(rows, "max-store-bytes");
  CHECK(row.at("value").is_null());
  CHECK(row.at("unit") == json::value("B"));
  CHECK(row_of(rows, "keep-builds-running").at("value") == json::value(false));
  CHECK(row_of(rows, "default-permissions").at("value").as_array().size() == 4);

  const auto text = f.run({"settings", "show", "max-cpu"}).out;
  CHECK(text.find("max-cpu = 8\n  from       account\n  overrides  16 (system)\n") == 0);
  CHECK(f.run({"settings", "show", "max-mem"}).out.find("unset: ") != std::string::npos);
  CHECK(f.run({"settings", "show"}).out.find("max-cpu ") != std::string::npos);

  CHECK(f.run({"settings", "unset", "max-cpu"}).out ==
        "max-cpu = 16 (account 'default'; from system)\n");
  CHECK(f.run({"settings", "unset", "max-cpu"}).status == 0);
  CHECK(f.run({"settings", "unset", "max-cpu", "--key", id, "--json"}).json().at("value") ==
        json::value(16));
  CHECK(f.db->key_settings(f.account, std::stoll(id)).empty());
  // What is stored is the plain form of what was given.
  CHECK(f.run({"settings", "set", "max-mem", "16GiB"}).status == 0);
  CHECK(f.db->account_settings(f.account).at("max-mem") == "16384");
  CHECK(f.run({"settings", "set", "keep-builds-running", "90s", "--json"}).json().at("value") ==
        json::value(90));
}

TEST_CASE("administration: refused settings say what is allowed", "[server][admin][reject]") {
  Fixture f;
  const auto id = std::to_string(add_key(f, "blob", "store:read"));
  const auto value = f.run({"settings", "set", "max-cpu", "many"});
  CHECK(value.status == 1);
  CHECK(value.err.find("a whole number from 1 to 4096") != std::string::npos);
  const auto name = f.run({"settings", "set", "max-cpus", "4"});
  CHECK(name.status == 4);
  CHECK(name.err.find("'max-cpu'") != std::string::npos);
  CHECK(f.run({"settings", "show", "max-cpus"}).status == 4);
  CHECK(f.run({"settings", "unset", "max-cpus"}).status == 4);
  const auto level = f.run({"settings", "set", "weight", "4", "--key", id});
  CHECK(level.status == 1);
  CHECK(level.err.find("system, account") != std::string::npos);
  CHECK(f.run({"settings", "set", "max-cpu", "4", "--key", "99"}).status == 4);
  CHECK(f.run({"settings", "show", "--key", "99"}).status == 4);
  CHECK(f.run({"settings", "show", "--key", "x"}).status == 2);
  CHECK(f.run({"settings", "set", "max-cpu"}).status == 2);
  CHECK(f.db->account_settings(f.account).empty());
}

TEST_CASE("administration: accounts cannot raise their own quotas over SSH",
          "[server][admin][reject]") {
  Fixture f;
  f.as.key = add_key(f, "blob", "account:write");
  for (const auto& spec : server::settings_table()) {
    if (spec.operator_only) {
      CAPTURE(spec.name);
      const std::string name(spec.name);
      const auto refused = f.run({"settings", "set", name, "9"}, true);
      CHECK(refused.status == 3);
      CHECK(refused.err.find("operator") != std::string::npos);
      CHECK(f.run({"settings", "unset", name}, true).status == 3);
    }
  }
  f.as.key = 0;
  CHECK(f.run({"settings", "set", "weight", "9"}).status == 0);
}

TEST_CASE("administration: a session over SSH is shown what holds for itself", "[server][admin]") {
  Fixture f;
  f.as.key = add_key(f, "blob", "store:read");
  f.db->set_key_setting(f.account, f.as.key, "min-cpu", "2");
  f.as.environment = {"NIXBUILD_MAX_CPU=4"};
  const auto rows = f.run({"settings", "show", "--json"}, true).json();
  CHECK(row_of(rows, "max-cpu").at("source") == json::value("ssh-env"));
  CHECK(row_of(rows, "min-cpu").at("source") == json::value("key"));
  f.as.environment = {"NIXBUILD_MAX_CPU=x"};
  CHECK(f.run({"settings", "show"}, true).status == 1);
}

} // namespace admin_settings_test
