#include "admin_text.hpp"
#include "api.hpp"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

constexpr std::size_t kSettingName = 64;

/// The setting's name out of the path. Nothing else than a name gets to whoever keeps settings.
std::string_view setting_name(const ApiCall& call) {
  const auto& name = call.names.at(0);
  const bool good = !name.empty() && name.size() <= kSettingName &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
                    });
  if (!good) {
    throw Error(Reaction::NotFound, "http.no-setting", "there is no such setting");
  }
  return name;
}

template <class Hook>
void expect_hook(const Hook& hook) {
  if (!hook) {
    throw Error(
        Reaction::Unsupported, "http.not-offered", "this daemon does not offer settings over HTTP");
  }
}

/// A value as the text that a command line would give.
std::string value_of_body(std::string_view body) {
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 2;
  const auto value = json::parse(body, error, {}, options);
  const auto* object = error ? nullptr : value.if_object();
  const auto* wanted =
      object != nullptr && object->size() == 1 ? object->if_contains("value") : nullptr;
  if (wanted != nullptr && wanted->is_string()) {
    return std::string(wanted->get_string());
  }
  if (wanted != nullptr && (wanted->is_bool() || wanted->is_int64() || wanted->is_uint64())) {
    return json::serialize(*wanted);
  }
  throw Error(Reaction::Reject,
              "http.body",
              R"(the body must be {"value": V}, where V is a text, a whole number, true or false)");
}

ApiAnswer setting_answer(std::string_view name, const std::optional<std::string>& value) {
  ApiAnswer answer;
  json::object object{{"name", name}, {"value", nullptr}};
  if (value) {
    object["value"] = *value;
  }
  answer.body = json::serialize(object) + "\n";
  return answer;
}

} // namespace

ApiAnswer list_settings(ApiCall& call) {
  call.query.expect_empty();
  expect_hook(call.hooks.list_settings);
  json::object object;
  for (const auto& [name, value] : call.hooks.list_settings(call.account)) {
    object[name] = value;
  }
  ApiAnswer answer;
  answer.body = json::serialize(object) + "\n";
  return answer;
}

ApiAnswer get_setting(ApiCall& call) {
  call.query.expect_empty();
  expect_hook(call.hooks.get_setting);
  const auto name = setting_name(call);
  const auto value = call.hooks.get_setting(call.account, name);
  if (!value) {
    throw Error(Reaction::NotFound,
                "http.no-setting",
                fmt::format("there is no such setting, or '{}' has no value", name));
  }
  return setting_answer(name, value);
}

ApiAnswer put_setting(ApiCall& call) {
  call.query.expect_empty();
  expect_hook(call.hooks.set_setting);
  const auto name = setting_name(call);
  const auto value = value_of_body(call.request.body);
  call.hooks.set_setting(call.account, name, value);
  return setting_answer(
      name, call.hooks.get_setting ? call.hooks.get_setting(call.account, name) : value);
}

ApiAnswer delete_setting(ApiCall& call) {
  call.query.expect_empty();
  expect_hook(call.hooks.unset_setting);
  const auto name = setting_name(call);
  call.hooks.unset_setting(call.account, name);
  return setting_answer(
      name, call.hooks.get_setting ? call.hooks.get_setting(call.account, name) : std::nullopt);
}

} // namespace nixbuild::server
