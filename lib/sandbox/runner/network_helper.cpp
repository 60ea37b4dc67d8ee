#include "sandbox/runner/network_helper.hpp"

#include "sandbox/runner/egress_filter.hpp"

#include <nixbuild/sandbox/guest_job.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <exception>
#include <utility>
#include <vector>

namespace nixbuild::sandbox::runner {

namespace {

constexpr const char* kHelperCode = "sandbox.spawn";

std::pair<UniqueFd, UniqueFd> connected_pair() {
  int ends[2];
  system_call(kHelperCode, "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<std::string> passt_command(const std::string& program, int socket, uid_t uid) {
  std::vector<std::string> words{program,       "--foreground",  "--quiet",
                                 "--one-off",   "--fd",          std::to_string(socket),
                                 "--ipv4-only", "--address",     kGuestAddress,
                                 "--netmask",   kGuestNetmask,   "--gateway",
                                 kGuestGateway, "--dns-forward", kGuestNameServer,
                                 "--no-map-gw", "--tcp-ports",   "none",
                                 "--udp-ports", "none",          "--no-dhcp"};
  if (uid != 0) {
    words.insert(words.end(), {"--runas", fmt::format("{0}:{0}", uid)});
  }
  return words;
}

pid_t start_passt(const std::string& program, const UniqueFd& socket, uid_t uid) {
  auto words = passt_command(program, socket.get(), uid);
  std::vector<char*> argv;
  for (auto& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  char* const environment[]{nullptr};
  const auto pid = static_cast<pid_t>(system_call(kHelperCode, program, [] { return ::fork(); }));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::fcntl(socket.get(), F_SETFD, 0);
    ::execve(program.c_str(), argv.data(), environment);
    ::_exit(127);
  }
  return pid;
}

/// What parses a guest's packets holds nothing: two sockets, no privilege, a user of its own.
void give_up_privileges(UniqueFd& guest, UniqueFd& helper, uid_t uid) {
  constexpr int first = 3;
  const auto keep = [](UniqueFd& socket, int at) {
    system_call(kHelperCode, "dup3", [&] { return ::dup3(socket.get(), at, O_CLOEXEC); });
    [[maybe_unused]] const int copied = socket.release();
    socket = UniqueFd(at);
  };
  // Both out of the way of the numbers they are to have.
  guest = UniqueFd(system_call(
      kHelperCode, "fcntl", [&] { return ::fcntl(guest.get(), F_DUPFD_CLOEXEC, first + 2); }));
  helper = UniqueFd(system_call(
      kHelperCode, "fcntl", [&] { return ::fcntl(helper.get(), F_DUPFD_CLOEXEC, first + 2); }));
  keep(guest, first);
  keep(helper, first + 1);
  system_call(kHelperCode, "close_range", [] { return ::close_range(first + 2, ~0U, 0); });
  if (uid != 0) {
    const auto gid = static_cast<gid_t>(uid);
    system_call(kHelperCode, "setgroups", [] { return ::setgroups(0, nullptr); });
    system_call(kHelperCode, "setresgid", [&] { return ::setresgid(gid, gid, gid); });
    system_call(kHelperCode, "setresuid", [&] { return ::setresuid(uid, uid, uid); });
  }
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL); // a change of user has cleared it
}

/// Nothing where the kernel has no such descriptors: then nobody is told.
UniqueFd watch_process(pid_t process) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
}

void end(pid_t pid) {
  if (pid > 0) {
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

} // namespace

NetworkHelper::NetworkHelper(const std::string& program, uid_t uid, const EgressRules& rules) {
  auto [emulator, guest] = connected_pair();
  auto [inner, outer] = connected_pair();
  passt_ = start_passt(program, outer, uid);
  outer.reset();
  const pid_t parent = ::getpid();
  filter_ = ::fork();
  if (filter_ == 0) {
    int status = 0;
    try {
      emulator.reset();
      give_up_privileges(guest, inner, uid);
      if (::getppid() == parent) {
        filter_egress(guest, inner, rules);
      }
    } catch (const std::exception&) {
      status = 1; // the guest's network ends; its build tells
    }
    ::_exit(status);
  }
  if (filter_ < 0) {
    end(std::exchange(passt_, -1));
    throw_system_error(kHelperCode, "fork");
  }
  emulator_end_ = std::move(emulator);
  passt_end_ = watch_process(passt_);
  filter_end_ = watch_process(filter_);
}

std::string NetworkHelper::what_ended() {
  std::string words;
  const auto look = [&](const char* name, pid_t& process, UniqueFd& end) {
    int status = 0;
    if (process <= 0 || ::waitpid(process, &status, WNOHANG) != process) {
      return;
    }
    process = -1;
    end.reset();
    words += words.empty() ? "" : ", ";
    words += WIFSIGNALED(status)
                 ? fmt::format("{} was killed by signal {}", name, WTERMSIG(status))
                 : fmt::format("{} ended with status {}", name, WEXITSTATUS(status));
  };
  look("passt", passt_, passt_end_);
  look("its filter", filter_, filter_end_);
  return words;
}

void NetworkHelper::join(MachineCgroup& cgroup) const {
  for (const auto process : {passt_, filter_}) {
    cgroup.add(process);
  }
}

NetworkHelper::~NetworkHelper() {
  end(filter_);
  end(passt_);
}

} // namespace nixbuild::sandbox::runner
