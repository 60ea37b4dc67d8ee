#pragma once

#include <nixbuild/build/builder.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <optional>

namespace nixbuild::server {

/// Whether the outputs of a derivation that a client sends by itself follow from it: from what it
/// says, or from the file under its path, where the account has that and all behind it. False: that
/// cannot be computed, and they are the client's own word. Blocking. Errors: `derivation.paths`,
/// `derivation.deferred`, `derivation.other` (the file under that path says something else).
[[nodiscard]] bool sent_outputs_follow(store::Store& store, const build::BuildRequest& sent);

/// Sets `sent.proven`; the result for the client where the derivation is refused.
[[nodiscard]] aio::Task<std::optional<model::BuildResult>> judge(const SessionParts& parts,
                                                                 build::BuildRequest& sent);

} // namespace nixbuild::server
