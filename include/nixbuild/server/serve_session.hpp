#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/protocol/wire.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/server/session_caller.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/store.hpp>

#include <chrono>
#include <memory>

namespace nixbuild::server {

class LongWork;
class OwnLoops;

/// What every session of a daemon uses. All of it outlives the sessions.
struct SessionParts {
  store::Store& store;
  store::LogStore& logs;
  build::SharedBuilds& builds;
  aio::BlockingPool& pool;
  Log& log;
  const Clock& clock;
  AccountDesk* accounts = nullptr;     ///< absent: a server without administration
  build::LeaseDesk* leases = nullptr;  ///< absent: nobody can be told why a build waits
  build::KeptMachines* kept = nullptr; ///< absent: there is none to be entered
  LongWork* long_work = nullptr;       ///< absent: what takes long is done on `pool`
  const OwnLoops* loops = nullptr;     ///< absent: there are none
};

struct SessionLimits {
  protocol::Limits wire;
  std::chrono::milliseconds greeting{std::chrono::seconds(30)}; ///< from its begin to its hello
  std::chrono::milliseconds idle{std::chrono::hours(24)};       ///< between two requests
  std::chrono::milliseconds stalled{std::chrono::minutes(10)};  ///< inside a request or a reply
  std::chrono::milliseconds deaf{std::chrono::seconds(60)}; ///< a client that does not take its log
};

/// One client speaking the serve protocol, from its hello to the end of its input. Returns the exit
/// status: 0 after a proper end, 1 after an error, which has been said on `err` as
/// `error: <message>` (the protocol has no other place for it). Runs on the strand it is started
/// on. Source: protocol facts 2.
NIXBUILD_API aio::Task<int> run_serve_session(const SessionParts& parts,
                                              SessionLimits limits,
                                              SessionCaller caller,
                                              std::shared_ptr<aio::ByteStream> in,
                                              std::shared_ptr<aio::ByteStream> out,
                                              std::shared_ptr<aio::ByteStream> err);

} // namespace nixbuild::server
