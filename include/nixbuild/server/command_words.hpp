#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/server/handoff.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::server {

/// Words of a command line as a shell would see them: blanks separate, quotes join, a backslash
/// takes the meaning from what follows it. Nothing is expanded; a quote that is not closed ends
/// with the line.
[[nodiscard]] NIXBUILD_API std::vector<std::string> split_words(std::string_view line);

/// What the words of a client ask for: kind, `write`, `limited` and `arguments` of a hand-over.
/// `over_ssh`: they are a whole command, with its program's name, and may be administration. Every
/// word has to be understood: a client that names another store shall not get this one. Error
/// (Reject) `front.command`, one line in the words of somebody who uses a builder.
[[nodiscard]] NIXBUILD_API Handoff read_client_words(const std::vector<std::string>& words,
                                                     bool over_ssh);

} // namespace nixbuild::server
