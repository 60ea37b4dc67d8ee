#include "sandbox/runner/build_run.hpp"

#include <nixbuild/sandbox/runner.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

/// Where a later daemon connects. The name is relative, because a socket's address has 108 bytes
/// and a run folder's path may have more.
UniqueFd listen_here() {
  UniqueFd socket(system_call("sandbox.spawn", "socket", [] {
    return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  }));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "runner.sock");
  ::unlink(address.sun_path);
  system_call("sandbox.spawn", "binding runner.sock", [&] {
    return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  });
  system_call("sandbox.spawn", "listening", [&] { return ::listen(socket.get(), 4); });
  return socket;
}

} // namespace

int run_runner(const fs::path& directory, UniqueFd daemon) {
  ::signal(SIGPIPE, SIG_IGN);
  const auto folder = fs::absolute(directory);
  system_call("sandbox.spawn", folder.c_str(), [&] { return ::chdir(folder.c_str()); });
  system_call(
      "sandbox.spawn", "close-on-exec", [&] { return ::fcntl(daemon.get(), F_SETFD, FD_CLOEXEC); });
  const int status = runner::BuildRun(std::move(daemon), listen_here()).run();
  std::error_code ignored;
  fs::current_path("/", ignored);
  fs::remove_all(folder, ignored);
  return status;
}

} // namespace nixbuild::sandbox
