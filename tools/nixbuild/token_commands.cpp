#include "here.hpp"
#include "server/admin_text.hpp"
#include "server/http_tokens.hpp"
#include "server/state_folder.hpp"

#include <nixbuild/server/config.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <chrono>
#include <cstdio>

namespace nixbuild::tool {

namespace json = boost::json;

namespace {

constexpr std::string_view kDefaultPermissions = "build:read";

/// The file that the daemon of this state directory and configuration reads.
std::string token_file(const Globals& globals) {
  const auto config = server::load_config(globals.config);
  return config.http_tokens.empty() ? globals.state_dir + "/http-tokens" : config.http_tokens;
}

std::int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

json::object as_json(const server::HttpToken& token) {
  json::array permissions;
  for (const auto permission : server::kAllPermissions) {
    if (token.permissions.has(permission)) {
      permissions.emplace_back(server::permission_name(permission));
    }
  }
  json::object object{{"name", token.name},
                      {"account", token.account},
                      {"permissions", std::move(permissions)},
                      {"expires", nullptr}};
  if (token.expires != 0) {
    object["expires"] = server::iso_time(token.expires);
  }
  return object;
}

std::string account_of(const Globals& globals, const server::Command& command) {
  return command.has("--metrics") ? std::string(server::kWholeServer) : globals.account;
}

} // namespace

int token_add(const Globals& globals, const server::Command& command) {
  server::HttpToken token;
  token.name = command.arguments.at(0);
  token.account = account_of(globals, command);
  token.permissions = server::Permissions::parse(
      command.value("--allow").value_or(std::string(kDefaultPermissions)));
  if (const auto age = command.value("--expires"); age && *age != "never") {
    token.expires = now_seconds() + server::parse_age(*age);
  }
  server::make_state_folder(globals.state_dir);
  const auto secret = server::add_token(token_file(globals), token);
  if (command.has("--json")) {
    auto object = as_json(token);
    object["token"] = secret;
    print(json::serialize(object) + "\n");
  } else {
    print(secret + "\n");
  }
  return 0;
}

int token_list(const Globals& globals, const server::Command& command) {
  const auto file_name = token_file(globals);
  const auto list = server::read_tokens(file_name);
  for (const auto& complaint : list.complaints) {
    std::fprintf(stderr, "warning: %s, %s\n", file_name.c_str(), complaint.c_str());
  }
  const auto only = command.value("--account");
  json::array array;
  server::TextTable table({{"NAME"}, {"ACCOUNT"}, {"PERMISSIONS"}, {"EXPIRES"}});
  for (const auto& token : list.tokens) {
    if (only && token.account != *only) {
      continue;
    }
    array.push_back(as_json(token));
    const bool expired = token.expires != 0 && token.expires <= now_seconds();
    table.add({token.name,
               token.account,
               token.permissions.text(),
               (token.expires == 0 ? "never" : server::human_time(token.expires)) +
                   (expired ? " (expired)" : "")});
  }
  if (command.has("--json")) {
    print(json::serialize(array) + "\n");
  } else {
    print(table.empty() ? "there is no token\n" : table.text());
  }
  return 0;
}

int token_remove(const Globals& globals, const server::Command& command) {
  const auto& name = command.arguments.at(0);
  const auto account = account_of(globals, command);
  if (!server::remove_token(token_file(globals), account, name)) {
    throw Error(Reaction::NotFound,
                "token.unknown",
                fmt::format("account '{}' has no token '{}'",
                            server::printable(account),
                            server::printable(name)));
  }
  return 0;
}

} // namespace nixbuild::tool
