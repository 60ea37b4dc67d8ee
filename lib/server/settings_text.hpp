#pragma once

#include <nixbuild/server/settings.hpp>

#include <string>
#include <string_view>

namespace nixbuild::server {

/// What somebody gave, cut and made safe for a message.
[[nodiscard]] std::string shown_value(std::string_view text);

/// `system, account, key`.
[[nodiscard]] std::string levels_text(const SettingSpec& spec);

/// `MAX_CPU` of `max-cpu`.
[[nodiscard]] std::string variable_of(const SettingSpec& spec);

} // namespace nixbuild::server
