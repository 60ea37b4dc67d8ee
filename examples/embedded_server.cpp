// A builder's store inside a program of your own: serves the protocol of ssh:// on standard input
// and output and keeps what it is given in memory. Try it without any daemon or sshd:
//
//     nix copy --to 'ssh://localhost?remote-program=/full/path/embedded_server' /nix/store/…-hello

#include <nixbuild/aio/system_clock.hpp>
#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/serve_session.hpp>
#include <nixbuild/store/memory.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <unistd.h>

#include <csignal>
#include <iostream>

using namespace nixbuild;

/// This server stores; it builds nothing.
class NoBuilds final : public sandbox::Executor {
  aio::Task<std::unique_ptr<sandbox::Execution>> start(sandbox::ExecutionPlan) override {
    throw Error(Reaction::Unsupported, "example.no-builds", "nothing is built here");
    co_return nullptr;
  }

  std::string accelerator() const override { return "none"; }
};

int main() {
  std::signal(SIGPIPE, SIG_IGN);
  boost::asio::io_context io;
  aio::BlockingPool pool(2);
  aio::SystemClock clock;
  NullLog log;
  const auto db = store::make_memory_metadata();
  const auto segments = store::make_memory_segments();
  const auto logs = store::make_memory_logs();
  store::Store store(*db, *segments, clock, model::StoreDir("/nix/store"));
  const auto account = db->ensure_account("default");

  NoBuilds executor;
  build::LeaseDesk leases({}, {}, clock);
  build::Builder builder({store, *logs, executor, leases, pool, clock, log}, {});
  aio::TaskGroup tasks(io.get_executor(), log);
  build::SharedBuilds builds(builder, tasks);
  const server::SessionParts parts{store, *logs, builds, pool, log, clock};

  server::SessionCaller caller;
  caller.account = account;
  const auto stream = [&](int fd) {
    return std::make_shared<aio::ByteStream>(io.get_executor(), UniqueFd(::dup(fd)));
  };
  int status = 1;
  auto session = server::run_serve_session(parts, {}, caller, stream(0), stream(1), stream(2));
  boost::asio::co_spawn(io, std::move(session), [&](std::exception_ptr failure, int result) {
    status = failure ? 1 : result;
  });
  io.run();
  pool.join();
  for (const auto& path : db->all_paths(account)) {
    std::cerr << "received " << path.base_name() << '\n';
  }
  return status;
}
