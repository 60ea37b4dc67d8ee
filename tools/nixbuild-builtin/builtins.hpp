#pragma once

#include <map>
#include <stdexcept>
#include <string>

/// The builders that Nix has inside, as a program for the machine of a build. Source: protocol
/// facts 5.7.
namespace nixbuild::builtin {

inline constexpr const char* kCode = "builtin.failed";

/// What a builtin is given: the derivation's variables, and what the server says beside them.
struct Call {
  std::map<std::string, std::string> attributes;
  /// `network` (`1`: this build has one), `certificates`, `netrc` (files), `http_proxy`,
  /// `https_proxy`, `all_proxy`, `no_proxy`.
  std::map<std::string, std::string> settings;

  /// Error `builtin.failed` when the derivation does not have it.
  [[nodiscard]] const std::string& attribute(const std::string& name) const;
  [[nodiscard]] bool on(const std::string& name) const;
  /// Empty when it is not set.
  [[nodiscard]] std::string setting(const std::string& name) const;
};

/// Error `builtin.failed`.
[[noreturn]] void fail(std::string message);

/// `builtin:fetchurl`: what `url` names becomes `out`; with `unpack` it is a NAR (xz where the URL
/// ends so) that is restored, with `executable` it may be executed. Tells of its progress on
/// standard error.
void fetch_url(const Call& call);
/// `builtin:buildenv`: symlinks in `out` to everything that the packages in `derivations` have.
void build_environment(const Call& call);
/// `builtin:unpack-channel`: the one thing in the archive `src`, as `out`/`channelName`.
void unpack_channel(const Call& call);

} // namespace nixbuild::builtin
