#pragma once

#include "framed_payload.hpp"

#include <nixbuild/protocol/wire.hpp>

namespace nixbuild::server {

/// Takes the paths that the frames of an AddMultipleToStore carry, dependencies first. Small ones
/// are gathered: a whole batch is digested, stored and registered in one visit to the blocking pool
/// and one transaction while the next one is coming; large ones go one by one. Paths before a
/// failing one stay. `lease` gets every path. Errors: those of PathInfoStream, Import and
/// Store::commit, and `worker.truncated`, `worker.trailing` for frames that end too early or too
/// late.
aio::Task<void> receive_paths(const SessionParts& parts,
                              store::AccountId account,
                              store::Lease& lease,
                              protocol::Limits limits,
                              FramedPayload& frames);

} // namespace nixbuild::server
