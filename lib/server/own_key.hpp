#pragma once

#include <nixbuild/model/signature.hpp>

#include <string>

namespace nixbuild::server {

/// The key that signs what is built here, of the state directory; made at the first start. Errors
/// name the file: `daemon.key` (it cannot be read or written, or is no key).
[[nodiscard]] model::SigningKey load_signing_key(const std::string& state_dir);

} // namespace nixbuild::server
