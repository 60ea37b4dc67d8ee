#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/build/builder.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/server/permissions.hpp>
#include <nixbuild/server/settings.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <memory>
#include <string>
#include <string_view>

namespace nixbuild::server {

class SessionTimes;

/// Who a session belongs to, what it may do, and what it has asked for. A value.
struct SessionCaller {
  store::AccountId account;
  Permissions permissions = Permissions::all();
  bool write = true; ///< false: the client has asked for a session that changes nothing
  std::string key;   ///< number of the SSH key; empty: none
  SessionSettings settings = SessionSettings::resolve({}, {});
  model::SelfReferences self_references = model::SelfReferences::WithOffsets; ///< of its Nix
  /// The caller is a client of a builder's: it sees and changes this store alone. Absent: no.
  std::shared_ptr<build::BuilderStore> inside;
  std::shared_ptr<SessionTimes> times; ///< of the session; absent: builds' records have none

  /// Errors (Denied): `session.read-only`, and `permission.missing` naming the permission. `what`
  /// begins the message: the operation's name.
  NIXBUILD_API void expect(Permission permission, std::string_view what) const;

  /// What the builder is told of a build that this session asks for: limits, policy and placement
  /// from the settings in force. Errors `settings.value`, `settings.tag` when the derivation's
  /// attributes are none; `build.recursive` (Reject) when a builder asks for the build that it is a
  /// part of, or builders wait for each other too deeply.
  [[nodiscard]] NIXBUILD_API build::BuildRequest order(const model::StorePath& path,
                                                       model::BasicDerivation derivation,
                                                       const model::BuildOptions& options) const;
};

/// The policy that settings make.
[[nodiscard]] NIXBUILD_API build::BuildPolicy policy_of(const BuildSettings& settings);

} // namespace nixbuild::server
