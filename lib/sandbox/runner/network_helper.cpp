#include "sandbox/runner/network_helper.hpp"

#include <nixbuild/sandbox/guest_job.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <vector>

namespace nixbuild::sandbox::runner {

NetworkHelper::NetworkHelper(const std::string& program, uid_t uid) {
  int ends[2];
  system_call("sandbox.spawn", "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  emulator_end_ = UniqueFd(ends[0]);
  const UniqueFd helper_end(ends[1]);
  std::vector<std::string> arguments{
      program,       "--foreground",  "--quiet",
      "--one-off",   "--fd",          std::to_string(helper_end.get()),
      "--ipv4-only", "--address",     kGuestAddress,
      "--netmask",   kGuestNetmask,   "--gateway",
      kGuestGateway, "--dns-forward", kNameServer,
      "--no-map-gw", "--tcp-ports",   "none",
      "--udp-ports", "none",          "--no-dhcp"};
  if (uid != 0) {
    arguments.insert(arguments.end(), {"--runas", fmt::format("{0}:{0}", uid)});
  }
  std::vector<char*> argv;
  for (auto& argument : arguments) {
    argv.push_back(argument.data());
  }
  argv.push_back(nullptr);
  char* const environment[]{nullptr};
  pid_ = system_call("sandbox.spawn", program, [] { return ::fork(); });
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::fcntl(helper_end.get(), F_SETFD, 0);
    ::execve(program.c_str(), argv.data(), environment);
    ::_exit(127);
  }
}

NetworkHelper::~NetworkHelper() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

} // namespace nixbuild::sandbox::runner
