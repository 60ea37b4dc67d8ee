#include "admin_call.hpp"
#include "admin_text.hpp"
#include "settings_text.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

/// What holds for the session, or for the account and the key that is named.
EffectiveSettings settings_in_force(const AdminCall& call) {
  auto layers = call.identity.layers;
  if (const auto id = call.command.value("--key")) {
    layers.key = call.parts.store.db().key_settings(call.account, key_of_account(call, *id).id);
    return SessionSettings::resolve(layers, {}).effective();
  }
  return SessionSettings::resolve(layers, call.handoff.environment).effective();
}

json::value value_of(const SettingSpec& spec, std::int64_t value) {
  switch (spec.type) {
  case SettingType::Flag:
    return value != 0;
  case SettingType::Grace:
    return value == 0 || value == kForever ? json::value(value != 0) : json::value(value);
  case SettingType::Permissions: {
    json::array list;
    for (const auto permission : kAllPermissions) {
      if (Permissions::of_bits(static_cast<std::uint8_t>(value)).has(permission)) {
        list.emplace_back(permission_name(permission));
      }
    }
    return list;
  }
  default:
    return value;
  }
}

std::string_view unit_of(const SettingSpec& spec) {
  switch (spec.type) {
  case SettingType::Seconds:
  case SettingType::Grace:
    return "s";
  case SettingType::Bytes:
    return "B";
  default:
    return spec.unit;
  }
}

json::object object_of(const SettingSpec& spec, const SettingExplanation& explanation) {
  json::array overridden;
  for (const auto& step : explanation.overridden) {
    overridden.push_back(
        json::object{{"level", name_of(step.level)}, {"value", value_of(spec, step.value)}});
  }
  json::array levels;
  for (std::size_t i = 1; i < kSettingLevels; ++i) {
    if (spec.allowed_at(static_cast<SettingLevel>(i))) {
      levels.emplace_back(name_of(static_cast<SettingLevel>(i)));
    }
  }
  json::object object{{"name", spec.name}};
  object["value"] = explanation.value ? value_of(spec, *explanation.value) : json::value(nullptr);
  object["source"] = name_of(explanation.source);
  object["overridden"] = std::move(overridden);
  object["unit"] = unit_of(spec).empty() ? json::value(nullptr) : json::value(unit_of(spec));
  object["levels"] = std::move(levels);
  object["meaning"] = spec.meaning;
  return object;
}

std::string shown(const SettingSpec& spec, const std::optional<std::int64_t>& value) {
  return value ? print_setting(spec, *value) : "-";
}

std::string overridden_text(const SettingSpec& spec, const SettingExplanation& explanation) {
  std::string text;
  for (const auto& step : explanation.overridden) {
    text += fmt::format("{}{} ({})",
                        text.empty() ? "" : ", ",
                        print_setting(spec, step.value),
                        name_of(step.level));
  }
  return text.empty() ? "-" : text;
}

std::string description(const SettingSpec& spec, const SettingExplanation& explanation) {
  return fmt::format("{} = {}\n"
                     "  from       {}\n"
                     "  overrides  {}\n"
                     "  allowed    {}\n"
                     "  levels     {}\n\n"
                     "{}\n",
                     spec.name,
                     explanation.value ? print_setting(spec, *explanation.value)
                                       : fmt::format("unset: {}", spec.unset),
                     name_of(explanation.source),
                     overridden_text(spec, explanation),
                     allowed_text(spec),
                     levels_text(spec),
                     spec.meaning);
}

/// The setting that is to be changed, when this session may change it at that level.
const SettingSpec& changeable(const AdminCall& call, SettingLevel level) {
  const auto& spec = setting_named(call.command.arguments.at(0));
  expect_level(spec, level);
  if (spec.operator_only && call.handoff.limited) {
    throw Error(Reaction::Denied,
                "settings.operator",
                fmt::format("{} is set by the operator of the service, not over SSH", spec.name));
  }
  return spec;
}

void store_setting(const AdminCall& call,
                   const SettingSpec& spec,
                   std::optional<std::string_view> value) {
  auto& db = call.parts.store.db();
  if (const auto id = call.command.value("--key")) {
    db.set_key_setting(call.account, key_of_account(call, *id).id, spec.name, value);
  } else {
    db.set_account_setting(call.account, spec.name, value);
  }
}

SettingLevel level_of(const AdminCall& call) {
  return call.command.has("--key") ? SettingLevel::Key : SettingLevel::Account;
}

/// What holds now, read back, for account and named key alone.
AdminAnswer tell(const AdminCall& call, const SettingSpec& spec) {
  StoredLayers layers;
  layers.system = call.desk().system_settings();
  layers.account = call.parts.store.db().account_settings(call.account);
  std::string of = fmt::format("account '{}'", call.handoff.account);
  if (const auto id = call.command.value("--key")) {
    const auto key = key_of_account(call, *id);
    layers.key = call.parts.store.db().key_settings(call.account, key.id);
    of += fmt::format(", key {}", key.id);
  }
  const auto explanation = SessionSettings::resolve(layers, {}).effective().explain(spec.id);
  if (call.json()) {
    return {json::serialize(object_of(spec, explanation)) + "\n"};
  }
  return {fmt::format("{} = {} ({}; from {})\n",
                      spec.name,
                      shown(spec, explanation.value),
                      of,
                      name_of(explanation.source))};
}

} // namespace

AdminAnswer show_settings(const AdminCall& call) {
  const auto settings = settings_in_force(call);
  if (!call.command.arguments.empty()) {
    const auto& spec = setting_named(call.command.arguments.front());
    const auto explanation = settings.explain(spec.id);
    return {call.json() ? json::serialize(object_of(spec, explanation)) + "\n"
                        : description(spec, explanation)};
  }
  TextTable table({{"SETTING"}, {"VALUE"}, {"UNIT"}, {"FROM"}, {"OVERRIDES"}});
  json::array list;
  for (const auto& spec : settings_table()) {
    const auto explanation = settings.explain(spec.id);
    list.push_back(object_of(spec, explanation));
    table.add({std::string(spec.name),
               shown(spec, explanation.value),
               std::string(unit_of(spec)),
               std::string(name_of(explanation.source)),
               overridden_text(spec, explanation)});
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

AdminAnswer set_setting(const AdminCall& call) {
  const auto level = level_of(call);
  const auto& spec = changeable(call, level);
  const auto value = parse_setting(spec, level, call.command.arguments.at(1));
  store_setting(call, spec, print_setting(spec, value));
  return tell(call, spec);
}

AdminAnswer unset_setting(const AdminCall& call) {
  const auto& spec = changeable(call, level_of(call));
  store_setting(call, spec, std::nullopt);
  return tell(call, spec);
}

} // namespace nixbuild::server
