#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <string>

namespace nixbuild::server {

/// Makes the state directory, for its owner alone, where it is missing. Every program that writes
/// into it begins with this. Error `state-dir.make`.
void make_state_folder(const std::string& state_dir);

/// Closes a state directory to others that was left open to them, and its database in any case, as
/// far as they are this user's. A group that was let in stays in. Returns true when the directory
/// was open. A folder that has other things than ours in it is left as it is. Never throws.
bool narrow_state_folder(const std::string& state_dir) noexcept;

/// The daemon's lock, which dies with its process. Errors: `daemon.running` (Busy: another one
/// holds it), `daemon.state-dir`.
[[nodiscard]] UniqueFd lock_state_folder(const std::string& state_dir);

} // namespace nixbuild::server
