#include "admin_text.hpp"
#include "settings_text.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/settings.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <utility>

namespace nixbuild::server {

namespace {

struct Unit {
  std::string_view name;
  std::int64_t size;
};

constexpr std::array<Unit, 7> kMebibyteUnits = {{{"", 1},
                                                 {"MiB", 1},
                                                 {"M", 1},
                                                 {"GiB", 1024},
                                                 {"G", 1024},
                                                 {"TiB", 1024 * 1024},
                                                 {"T", 1024 * 1024}}};
constexpr std::array<Unit, 10> kByteUnits = {{{"", 1},
                                              {"B", 1},
                                              {"KiB", 1LL << 10},
                                              {"K", 1LL << 10},
                                              {"MiB", 1LL << 20},
                                              {"M", 1LL << 20},
                                              {"GiB", 1LL << 30},
                                              {"G", 1LL << 30},
                                              {"TiB", 1LL << 40},
                                              {"T", 1LL << 40}}};
constexpr std::array<Unit, 6> kSecondUnits = {
    {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 604800}}};
constexpr std::array<Unit, 1> kNoUnits = {{{"", 1}}};

std::span<const Unit> units_of(SettingType type) {
  switch (type) {
  case SettingType::Mebibytes:
    return kMebibyteUnits;
  case SettingType::Bytes:
    return kByteUnits;
  case SettingType::Seconds:
  case SettingType::Grace:
    return kSecondUnits;
  default:
    return kNoUnits;
  }
}

/// A number with one of the type's units; nothing when it is none or too large for 64 bits.
std::optional<std::int64_t> number_of(SettingType type, std::string_view text) {
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc()) {
    return std::nullopt;
  }
  const std::string_view name(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const auto& unit : units_of(type)) {
    std::int64_t value = 0;
    if (unit.name == name && !__builtin_mul_overflow(count, unit.size, &value)) {
      return value;
    }
  }
  return std::nullopt;
}

std::optional<std::int64_t> flag_of(std::string_view text) {
  if (text == "true" || text == "1") {
    return 1;
  }
  if (text == "false" || text == "0" || text.empty()) {
    return 0;
  }
  return std::nullopt;
}

std::optional<std::int64_t> value_of(const SettingSpec& spec, std::string_view text) {
  if (spec.type == SettingType::Permissions) {
    try {
      return Permissions::parse(text).bits();
    } catch (const Error&) {
      return std::nullopt;
    }
  }
  if (spec.type == SettingType::Flag) {
    return flag_of(text);
  }
  if (spec.type == SettingType::Grace) {
    if (const auto flag = flag_of(text)) {
      return *flag != 0 ? kForever : 0;
    }
  }
  const auto number = number_of(spec.type, text);
  return number && *number >= spec.least && *number <= spec.most ? number : std::nullopt;
}

/// Changes of one character that turn one name into the other.
std::size_t distance_of(std::string_view one, std::string_view other) {
  std::vector<std::size_t> row(other.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= one.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= other.size(); ++j) {
      const auto changed = diagonal + (one[i - 1] == other[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row.back();
}

/// What is compared for a cap.
std::int64_t as_limit(const SettingSpec& spec, std::int64_t value) {
  return spec.rule == SettingRule::CapOrZero && value == 0 ? kForever : value;
}

} // namespace

std::string_view name_of(SettingLevel level) noexcept {
  constexpr std::array<std::string_view, kSettingLevels> names = {
      "built-in", "system", "account", "key", "ssh-env", "derivation", "client"};
  return names[static_cast<std::size_t>(level)];
}

const SettingSpec& spec_of(SettingId id) noexcept {
  return settings_table()[static_cast<std::size_t>(id)];
}

const SettingSpec* find_setting(std::string_view name) noexcept {
  const auto table = settings_table();
  const auto found = std::find_if(
      table.begin(), table.end(), [&](const SettingSpec& spec) { return spec.name == name; });
  return found == table.end() ? nullptr : &*found;
}

const SettingSpec& setting_named(std::string_view name) {
  if (const auto* spec = find_setting(name)) {
    return *spec;
  }
  const auto shown = shown_value(name);
  const auto table = settings_table();
  const auto nearest =
      std::min_element(table.begin(), table.end(), [&](const auto& a, const auto& b) {
        return distance_of(shown, a.name) < distance_of(shown, b.name);
      });
  throw Error(Reaction::NotFound,
              "settings.unknown",
              fmt::format("there is no setting '{}'; the nearest is '{}' (nixbuild settings show "
                          "lists all)",
                          shown,
                          nearest->name));
}

std::string shown_value(std::string_view text) {
  constexpr std::size_t most = 100;
  return printable(text.substr(0, most)) + (text.size() > most ? "…" : "");
}

std::string allowed_text(const SettingSpec& spec) {
  const auto range =
      fmt::format("{} to {}", print_setting(spec, spec.least), print_setting(spec, spec.most));
  switch (spec.type) {
  case SettingType::Flag:
    return "true or false (1, 0)";
  case SettingType::Number:
    return fmt::format("a whole number from {}", range);
  case SettingType::Mebibytes:
    return fmt::format("MiB from {}, or with unit (16GiB)", range);
  case SettingType::Bytes:
    return fmt::format("bytes from {}, or with unit (64MiB)", range);
  case SettingType::Seconds:
    return fmt::format("seconds from {}, or with unit (15m, 12h, 30d)", range);
  case SettingType::Grace:
    return fmt::format("true, false, or seconds up to {}, or with unit (15m, 12h)", spec.most);
  case SettingType::Permissions:
    return "none, or of " + Permissions::all().text();
  }
  return {};
}

std::int64_t parse_setting(const SettingSpec& spec, SettingLevel level, std::string_view text) {
  const auto value = value_of(spec, text);
  if (!value) {
    throw Error(Reaction::Reject,
                "settings.value",
                fmt::format("setting {} of level {} cannot be '{}'; allowed: {}",
                            spec.name,
                            name_of(level),
                            shown_value(text),
                            allowed_text(spec)));
  }
  return *value;
}

std::string print_setting(const SettingSpec& spec, std::int64_t value) {
  switch (spec.type) {
  case SettingType::Flag:
    return value != 0 ? "true" : "false";
  case SettingType::Grace:
    if (value == 0 || value == kForever) {
      return value != 0 ? "true" : "false";
    }
    return value == 1 ? "1s" : std::to_string(value); // a bare 1 is true
  case SettingType::Permissions: {
    auto text = Permissions::of_bits(static_cast<std::uint8_t>(value)).text();
    return text.empty() ? "none" : text;
  }
  case SettingType::Bytes:
    for (const auto& unit :
         {Unit{"GiB", 1LL << 30}, Unit{"MiB", 1LL << 20}, Unit{"KiB", 1LL << 10}}) {
      if (value != 0 && value % unit.size == 0) {
        return std::to_string(value / unit.size) + std::string(unit.name);
      }
    }
    return std::to_string(value);
  default:
    return std::to_string(value);
  }
}

void expect_level(const SettingSpec& spec, SettingLevel level) {
  if (spec.allowed_at(level)) {
    return;
  }
  throw Error(Reaction::Reject,
              "settings.level",
              fmt::format("setting {} cannot be set in level {}; it can in: {}",
                          spec.name,
                          name_of(level),
                          levels_text(spec)));
}

std::string levels_text(const SettingSpec& spec) {
  std::string text;
  for (std::size_t i = 1; i < kSettingLevels; ++i) {
    const auto level = static_cast<SettingLevel>(i);
    if (spec.allowed_at(level)) {
      text += (text.empty() ? "" : ", ") + std::string(name_of(level));
    }
  }
  return text;
}

EffectiveSettings::EffectiveSettings() {
  for (const auto& spec : settings_table()) {
    if (!spec.default_text.empty()) {
      values_[static_cast<std::size_t>(spec.id)][0] =
          parse_setting(spec, SettingLevel::BuiltIn, spec.default_text);
    }
  }
}

void EffectiveSettings::set(SettingLevel level, const SettingSpec& spec, std::string_view text) {
  expect_level(spec, level);
  values_[static_cast<std::size_t>(spec.id)][static_cast<std::size_t>(level)] =
      parse_setting(spec, level, text);
}

void EffectiveSettings::set_value(SettingLevel level, const SettingSpec& spec, std::int64_t value) {
  set(level, spec, print_setting(spec, value));
}

void EffectiveSettings::set_all(SettingLevel level,
                                const std::map<std::string, std::string>& stored) {
  for (const auto& [name, text] : stored) {
    set(level, setting_named(name), text);
  }
}

SettingExplanation EffectiveSettings::explain(SettingId id) const {
  const auto& spec = spec_of(id);
  const auto& values = values_[static_cast<std::size_t>(id)];
  SettingExplanation result;
  for (std::size_t i = kSettingLevels; i-- > 0;) {
    if (values[i]) {
      result.value = values[i];
      result.source = static_cast<SettingLevel>(i);
      break;
    }
  }
  if (result.value && spec.rule != SettingRule::Override) {
    for (const auto level : {SettingLevel::System, SettingLevel::Account, SettingLevel::Key}) {
      const auto& cap = values[static_cast<std::size_t>(level)];
      if (cap && as_limit(spec, *cap) < as_limit(spec, *result.value)) {
        result.value = cap;
        result.source = level;
      }
    }
  }
  for (std::size_t i = kSettingLevels; i-- > 0;) {
    const auto level = static_cast<SettingLevel>(i);
    if (values[i] && level != result.source) {
      result.overridden.push_back({level, *values[i]});
    }
  }
  return result;
}

std::optional<std::int64_t> EffectiveSettings::value(SettingId id) const {
  return explain(id).value;
}

std::int64_t EffectiveSettings::number(SettingId id) const {
  return value(id).value_or(0);
}

Permissions EffectiveSettings::permissions() const {
  return Permissions::of_bits(static_cast<std::uint8_t>(number(SettingId::DefaultPermissions)));
}

} // namespace nixbuild::server
