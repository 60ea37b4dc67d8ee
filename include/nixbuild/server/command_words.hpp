#pragma once

#include <nixbuild/base/api.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::server {

/// Words of a command line as a shell would see them: blanks separate, quotes join, a backslash
/// takes the meaning from what follows it. Nothing is expanded; a quote that is not closed ends
/// with the line.
[[nodiscard]] NIXBUILD_API std::vector<std::string> split_words(std::string_view line);

} // namespace nixbuild::server
