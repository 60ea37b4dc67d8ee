#pragma once

#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <memory>

namespace nixbuild::server {

/// One client speaking the worker protocol (`ssh-ng://`), from its hello to the end of its input.
/// Failures of single operations are answered in the protocol and the session goes on; a breach of
/// the protocol is answered, too, and ends it. Returns the exit status: 0 after a proper end, 1
/// after an error, which has then also been said on `err` (null: nobody reads that). Runs on the
/// strand it is started on. Source: protocol facts 3.
NIXBUILD_API aio::Task<int> run_worker_session(const SessionParts& parts,
                                               SessionLimits limits,
                                               SessionCaller caller,
                                               std::shared_ptr<aio::ByteStream> in,
                                               std::shared_ptr<aio::ByteStream> out,
                                               std::shared_ptr<aio::ByteStream> err);

} // namespace nixbuild::server
