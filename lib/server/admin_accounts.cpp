#include "admin_call.hpp"
#include "admin_text.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

constexpr std::string_view kAlwaysThere = "default";

} // namespace

AdminAnswer add_account(const AdminCall& call) {
  auto& db = call.parts.store.db();
  const auto& name = call.command.arguments.at(0);
  const bool existed = db.find_account(name).has_value();
  db.ensure_account(name);
  if (call.json()) {
    return {json::serialize(json::object{{"name", name}, {"created", !existed}}) + "\n"};
  }
  return {fmt::format("account '{}' {}\n", name, existed ? "existed already" : "added")};
}

AdminAnswer list_accounts(const AdminCall& call) {
  auto& db = call.parts.store.db();
  using Align = TextTable::Align;
  TextTable table({{"ACCOUNT"}, {"PATHS", Align::Right}});
  json::array list;
  for (const auto& account : db.accounts()) {
    if (call.handoff.limited && account.name != call.handoff.account) {
      continue;
    }
    const auto paths = db.all_paths(account.id).size();
    table.add({account.name, std::to_string(paths)});
    list.push_back(json::object{{"name", account.name}, {"paths", paths}});
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

AdminAnswer remove_account(const AdminCall& call) {
  auto& db = call.parts.store.db();
  const auto& name = call.command.arguments.at(0);
  const auto account = db.find_account(name);
  if (!account) {
    throw Error(Reaction::NotFound,
                "account.missing",
                fmt::format("there is no account '{}'", printable(name)));
  }
  if (name == kAlwaysThere) {
    throw Error(Reaction::Reject, "admin.default-account", "the account 'default' always exists");
  }
  const auto paths = db.all_paths(*account).size();
  const auto keys = db.keys(*account).size();
  if (paths + keys > 0 && !call.command.has("--force")) {
    throw Error(Reaction::Reject,
                "admin.account-in-use",
                fmt::format("account '{}' has {} store paths and {} keys; --force removes them too",
                            name,
                            paths,
                            keys));
  }
  // First: were the daemon to end in between, the account would only be without tokens.
  const auto tokens = call.desk().revoke_tokens(name);
  db.remove_account(*account);
  call.desk().publish_keys();
  if (call.json()) {
    return {json::serialize(json::object{
                {"name", name}, {"paths", paths}, {"keys", keys}, {"tokens", tokens}}) +
            "\n"};
  }
  const auto gone =
      paths + keys + tokens > 0
          ? fmt::format(" with {} store paths, {} keys and {} tokens", paths, keys, tokens)
          : std::string();
  return {fmt::format("account '{}' removed{}\n", name, gone)};
}

} // namespace nixbuild::server
