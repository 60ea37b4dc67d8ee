#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <memory>
#include <string>
#include <vector>

namespace nixbuild::server {

/// One administration command of `nixbuild` or of an SSH session (`builds`, `log`, `path`, …), run
/// in the daemon with its output on the descriptors that were handed over. Returns the exit status
/// of the command-line contract; an error is one line on `err`. A `limited` hand-over sees only its
/// own account and may not change accounts.
NIXBUILD_API aio::Task<int> run_admin_command(const SessionParts& parts,
                                              Handoff handoff,
                                              std::shared_ptr<aio::ByteStream> in,
                                              std::shared_ptr<aio::ByteStream> out,
                                              std::shared_ptr<aio::ByteStream> err);

} // namespace nixbuild::server
