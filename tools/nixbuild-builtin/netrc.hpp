#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nixbuild::builtin {

/// `login:password` for a host, from the text of a netrc file: the first entry that names it, else
/// the `default` one. `macdef` bodies are skipped. Never fails: what cannot be read is not there.
[[nodiscard]] std::optional<std::string> credentials_for(std::string_view host,
                                                         const std::string& netrc);

} // namespace nixbuild::builtin
