#include "admin_call.hpp"
#include "admin_text.hpp"
#include "settings_text.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/server/ssh_key.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

constexpr std::size_t kNameLength = 100;

std::string key_text(const AdminCall& call) {
  const auto& words = call.command.arguments;
  if (words.size() == 1 && words.front() == "-") {
    return call.input;
  }
  if (words.size() == 1 && words.front().find(' ') == std::string::npos) {
    throw_usage(fmt::format("'{}' is no public key: give the key itself, or - and the file as "
                            "input",
                            printable(words.front())));
  }
  std::string text;
  for (const auto& word : words) {
    text += (text.empty() ? "" : " ") + word;
  }
  return text;
}

std::string name_of_key(std::string_view given) {
  const auto name = printable(given);
  if (name != given || shown_width(name) > kNameLength) {
    throw_usage(
        fmt::format("a name is up to {} characters without control characters", kNameLength));
  }
  return name;
}

/// What --permission says; nothing when it is not given.
std::optional<std::optional<std::string>> permissions_given(const Command& command) {
  const auto given = command.values("--permission");
  if (given.empty()) {
    return std::nullopt;
  }
  if (given.size() == 1 && given.front() == "default") {
    return std::optional<std::string>();
  }
  std::string words;
  for (const auto& word : given) {
    words += word + " ";
  }
  return std::optional(Permissions::parse(words).text());
}

void change_tags(Tags& tags, const Command& command) {
  for (const auto& text : command.values("--tag")) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) {
      throw_usage(fmt::format("--tag needs NAME=VALUE, not '{}'", printable(text)));
    }
    const auto name = text.substr(0, equals);
    const auto value = text.substr(equals + 1);
    if (value.empty()) {
      tags.erase(name);
    } else {
      put_tag(tags, name, value);
    }
  }
}

json::array words_of(const Permissions& permissions) {
  json::array list;
  for (const auto permission : kAllPermissions) {
    if (permissions.has(permission)) {
      list.emplace_back(permission_name(permission));
    }
  }
  return list;
}

json::value second_or_null(std::int64_t seconds) {
  return seconds == 0 ? json::value(nullptr) : json::value(iso_time(seconds));
}

/// What every key of the account may do without permissions of its own.
Permissions default_permissions(const AdminCall& call) {
  EffectiveSettings settings;
  settings.set_all(SettingLevel::System, call.desk().system_settings());
  settings.set_all(SettingLevel::Account, call.parts.store.db().account_settings(call.account));
  return settings.permissions();
}

json::object
object_of(const AdminCall& call, const store::SshKey& key, const Permissions& defaults) {
  json::object tags;
  for (const auto& [name, value] : key.tags) {
    tags[name] = value;
  }
  return {
      {"id", key.id},
      {"name", key.name},
      {"algorithm", key.algorithm},
      {"fingerprint", fingerprint_of(key.blob)},
      {"publicKey", public_key_text(key.algorithm, key.blob)},
      {"permissions", words_of(key.permissions ? Permissions::parse(*key.permissions) : defaults)},
      {"defaultPermissions", !key.permissions},
      {"tags", tags},
      {"expires", second_or_null(key.expires_at)},
      {"expired", key.expires_at != 0 && key.expires_at <= call.desk().now()},
      {"created", second_or_null(key.created_at)},
      {"lastUsed", second_or_null(key.last_used_at)}};
}

std::int64_t key_number(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number <= 0) {
    throw_usage(
        fmt::format("'{}' is no number of a key; nixbuild key list shows them", printable(text)));
  }
  return number;
}

/// `2027-01-31` or `2027-01-31T12:00:00Z`; nothing when it is neither.
std::optional<std::int64_t> date_of(std::string_view text) {
  const auto digits = [&](std::size_t at, std::size_t count) {
    int number = -1;
    if (at + count <= text.size()) {
      const auto* begin = text.data() + at;
      const auto [end, error] = std::from_chars(begin, begin + count, number);
      number = error == std::errc() && end == begin + count ? number : -1;
    }
    return number;
  };
  const bool with_time = text.size() == std::string_view("2027-01-31T12:00:00Z").size();
  if ((text.size() != std::string_view("2027-01-31").size() && !with_time) || text[4] != '-' ||
      text[7] != '-') {
    return std::nullopt;
  }
  const auto month = digits(5, 2);
  const auto day = digits(8, 2);
  if (digits(0, 4) < 0 || month < 0 || day < 0) {
    return std::nullopt;
  }
  const std::chrono::year_month_day date(std::chrono::year(digits(0, 4)),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day)));
  if (!date.ok()) {
    return std::nullopt;
  }
  std::int64_t seconds =
      std::chrono::sys_seconds(std::chrono::sys_days(date)).time_since_epoch().count();
  if (with_time) {
    const auto hour = digits(11, 2);
    const auto minute = digits(14, 2);
    const auto second = digits(17, 2);
    if (text[10] != 'T' || text[13] != ':' || text[16] != ':' || text[19] != 'Z' || hour < 0 ||
        hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) {
      return std::nullopt;
    }
    seconds += hour * 3600 + minute * 60 + second;
  }
  return seconds;
}

} // namespace

std::int64_t parse_expiry(std::string_view text, std::int64_t now) {
  if (text == "never") {
    return 0;
  }
  if (const auto date = date_of(text)) {
    if (*date <= now) {
      throw_usage(fmt::format("{} is past; a key is locked out by nixbuild key remove", text));
    }
    return *date;
  }
  const bool has_unit =
      !text.empty() && std::string_view("smhdw").find(text.back()) != std::string_view::npos;
  if (!has_unit || text.front() < '0' || text.front() > '9') {
    throw_usage(fmt::format("'{}' is no time of expiry: write 2027-01-31, 2027-01-31T12:00:00Z, "
                            "30d, 12h or never",
                            printable(text)));
  }
  const auto age = parse_age(text);
  if (age == 0) {
    throw_usage("a key cannot expire at once");
  }
  return now + age;
}

store::SshKey key_of_account(const AdminCall& call, std::string_view id) {
  const auto number = key_number(id);
  auto key = call.parts.store.db().key(call.account, number);
  if (!key) {
    throw Error(Reaction::NotFound,
                "key.unknown",
                fmt::format("account '{}' has no key {}; nixbuild key list shows them",
                            call.handoff.account,
                            number));
  }
  return *key;
}

AdminAnswer add_key(const AdminCall& call) {
  const auto parsed = parse_public_key(key_text(call));
  auto& desk = call.desk();
  store::SshKey key;
  key.account = call.account;
  key.algorithm = parsed.algorithm;
  key.blob = parsed.blob;
  key.name = name_of_key(call.command.value("--name").value_or(parsed.comment));
  key.permissions = permissions_given(call.command).value_or(std::nullopt);
  change_tags(key.tags, call.command);
  key.created_at = desk.now();
  if (const auto expires = call.command.value("--expires")) {
    key.expires_at = parse_expiry(*expires, desk.now());
  }
  key.id = call.parts.store.db().add_key(key);
  desk.publish_keys();
  if (call.json()) {
    return {json::serialize(object_of(call, key, default_permissions(call))) + "\n"};
  }
  return {fmt::format("key {} added to account '{}': {} {}\n",
                      key.id,
                      call.handoff.account,
                      fingerprint_of(key.blob),
                      printable(key.name))};
}

AdminAnswer list_keys(const AdminCall& call) {
  using Align = TextTable::Align;
  TextTable table({{"ID", Align::Right},
                   {"NAME"},
                   {"FINGERPRINT"},
                   {"PERMISSIONS"},
                   {"TAGS"},
                   {"EXPIRES"},
                   {"LAST USED"}});
  json::array list;
  const auto defaults = default_permissions(call);
  for (const auto& key : call.parts.store.db().keys(call.account)) {
    list.push_back(object_of(call, key, defaults));
    std::string tags;
    for (const auto& [name, value] : key.tags) {
      tags += (tags.empty() ? "" : " ") + name + "=" + value;
    }
    const bool expired = key.expires_at != 0 && key.expires_at <= call.desk().now();
    table.add(
        {std::to_string(key.id),
         key.name,
         fingerprint_of(key.blob),
         key.permissions ? (key.permissions->empty() ? "none" : *key.permissions)
                         : fmt::format("({})", defaults.text()),
         tags.empty() ? "-" : tags,
         key.expires_at == 0 ? "never" : human_time(key.expires_at) + (expired ? " (expired)" : ""),
         human_time(key.last_used_at)});
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

AdminAnswer set_key(const AdminCall& call) {
  if (std::none_of(call.command.options.begin(), call.command.options.end(), [](const auto& given) {
        return given.first == "--name" || given.first == "--permission" || given.first == "--tag" ||
               given.first == "--expires";
      })) {
    throw_usage("nothing to change: give --name, --permission, --tag or --expires");
  }
  auto& desk = call.desk();
  auto key = key_of_account(call, call.command.arguments.at(0));
  if (const auto name = call.command.value("--name")) {
    key.name = name_of_key(*name);
  }
  key.permissions = permissions_given(call.command).value_or(key.permissions);
  change_tags(key.tags, call.command);
  if (const auto expires = call.command.value("--expires")) {
    key.expires_at = parse_expiry(*expires, desk.now());
  }
  call.parts.store.db().update_key(key);
  desk.publish_keys();
  if (call.json()) {
    return {json::serialize(object_of(call, key, default_permissions(call))) + "\n"};
  }
  return {fmt::format("key {} changed\n", key.id)};
}

AdminAnswer remove_key(const AdminCall& call) {
  const auto key = key_of_account(call, call.command.arguments.at(0));
  call.parts.store.db().remove_key(call.account, key.id);
  call.desk().publish_keys();
  if (call.json()) {
    return {json::serialize(json::object{{"id", key.id}, {"name", key.name}}) + "\n"};
  }
  return {fmt::format("key {} ({}) removed from account '{}'\n",
                      key.id,
                      printable(key.name),
                      call.handoff.account)};
}

} // namespace nixbuild::server
