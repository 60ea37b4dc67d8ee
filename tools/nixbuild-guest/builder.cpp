#include "builder.hpp"

#include "build_root.hpp"
#include "files.hpp"
#include "network.hpp"
#include "syscall_filter.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <utility>
#include <vector>

namespace nixbuild::guest {

namespace {

/// What nix-daemon's service unit gives to every builder.
constexpr rlim_t kOpenFiles = 1'048'576;

// Between the child and this process, one byte each; after a failure its text follows.
constexpr char kUserNamespace = 'u';
constexpr char kNoUserNamespace = 'n';
constexpr char kGo = 'g';
constexpr char kFailed = 'E';

struct Pty {
  UniqueFd master;
  UniqueFd slave;
};

Pty open_pty(const sandbox::GuestJob& job, Input input) {
  Pty pty;
  pty.master = UniqueFd(system_call(kCode, "a pty", [] {
    return ::open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  }));
  system_call(kCode, "a pty", [&] { return ::unlockpt(pty.master.get()); });
  std::array<char, 64> name{};
  system_call(kCode, "a pty", [&] {
    return ::ptsname_r(pty.master.get(), name.data(), name.size()) == 0 ? 0 : -1;
  });
  pty.slave = UniqueFd(system_call(
      kCode, name.data(), [&] { return ::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC); }));
  if (input == Input::None) {
    termios raw{};
    system_call(kCode, name.data(), [&] { return ::tcgetattr(pty.slave.get(), &raw); });
    ::cfmakeraw(&raw);
    system_call(kCode, name.data(), [&] { return ::tcsetattr(pty.slave.get(), TCSANOW, &raw); });
  }
  system_call(kCode, name.data(), [&] { return ::fchown(pty.slave.get(), job.uid, job.gid); });
  system_call(kCode, name.data(), [&] { return ::fchmod(pty.slave.get(), 0600); });
  return pty;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (auto& text : texts) {
    result.push_back(text.data());
  }
  result.push_back(nullptr);
  return result;
}

void set_limit(decltype(RLIMIT_CORE) resource, rlim_t soft, rlim_t hard) {
  const rlimit limit{soft, hard};
  system_call(kCode, "a resource limit", [&] { return ::setrlimit(resource, &limit); });
}

/// A namespace in which only the builder's own user exists, as Nix has it: files of root belong to
/// nobody there. The other side writes the maps.
void enter_user_namespace(int talk) {
  const char state = ::unshare(CLONE_NEWUSER) == 0 ? kUserNamespace : kNoUserNamespace;
  write_all(talk, ByteView(reinterpret_cast<const std::uint8_t*>(&state), 1));
  char answer = 0;
  if (::read(talk, &answer, 1) != 1 || answer != kGo) {
    throw Error(Reaction::Internal, kCode, "the user namespace was not set up");
  }
}

void become_builder(const sandbox::GuestJob& job, int talk) {
  system_call(kCode, "setgroups", [] { return ::setgroups(0, nullptr); });
  enter_user_namespace(talk);
  system_call(kCode, "setresgid", [&] { return ::setresgid(job.gid, job.gid, job.gid); });
  system_call(kCode, "setresuid", [&] { return ::setresuid(job.uid, job.uid, job.uid); });
  system_call(kCode, "no_new_privs", [] { return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); });
  install_syscall_filter();
}

void prepare_process(const sandbox::GuestJob& job) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // This one we ignore ourselves, and what is ignored stays so over execve.
  ::signal(SIGPIPE, SIG_DFL);
  ::umask(022);
  rlimit core{};
  ::getrlimit(RLIMIT_CORE, &core);
  set_limit(RLIMIT_CORE, 0, core.rlim_max);
  set_limit(RLIMIT_NOFILE, kOpenFiles, kOpenFiles);
  const unsigned long persona = (job.linux32 ? static_cast<unsigned long>(PER_LINUX32) : 0UL) |
                                static_cast<unsigned long>(ADDR_NO_RANDOMIZE);
  system_call(kCode, "personality", [&] { return ::personality(persona); });
}

void name_machine() {
  constexpr std::string_view host = "localhost";
  constexpr std::string_view domain = "(none)";
  system_call(kCode, "the host name", [&] { return ::sethostname(host.data(), host.size()); });
  system_call(
      kCode, "the domain name", [&] { return ::setdomainname(domain.data(), domain.size()); });
}

void place(int from, int to) {
  system_call(kCode, "a standard stream", [&] { return ::dup2(from, to); });
}

/// nixbuild-builtin for a builder that is no file; none for others.
UniqueFd open_builtin(const sandbox::GuestJob& job, int initramfs) {
  if (!job.builder.starts_with("builtin:")) {
    return UniqueFd();
  }
  return UniqueFd(system_call(kCode, "nixbuild-builtin", [&] {
    return ::openat(initramfs, "bin/nixbuild-builtin", O_PATH | O_CLOEXEC);
  }));
}

[[noreturn]] void become(const sandbox::GuestJob& job, const UniqueFd& builtin) {
  std::vector<std::string> arguments{job.builder.substr(job.builder.find_last_of('/') + 1)};
  if (builtin) {
    arguments.insert(arguments.begin(), "nixbuild-builtin");
  }
  arguments.insert(arguments.end(), job.arguments.begin(), job.arguments.end());
  std::vector<std::string> environment;
  environment.reserve(job.environment.size());
  for (const auto& [name, value] : job.environment) {
    environment.push_back(name + "=" + value);
  }
  const auto argv = pointers(arguments);
  const auto envp = pointers(environment);
  if (builtin) {
    ::syscall(SYS_execveat, builtin.get(), "", argv.data(), envp.data(), AT_EMPTY_PATH);
  } else {
    ::execve(job.builder.c_str(), argv.data(), envp.data());
  }
  throw_system_error(kCode, "executing '" + job.builder + "'");
}

[[noreturn]] void run_child(const sandbox::GuestJob& job,
                            const std::string& root,
                            int initramfs,
                            Input input,
                            UniqueFd slave,
                            UniqueFd talk) {
  try {
    const auto builtin = open_builtin(job, initramfs);
    if (!job.network) {
      raise_loopback();
    }
    name_machine();
    enter_build_root(root, job);
    const UniqueFd null(
        system_call(kCode, "/dev/null", [] { return ::open("/dev/null", O_RDWR | O_CLOEXEC); }));
    system_call(kCode, "setsid", [] { return ::setsid(); });
    prepare_process(job);
    if (input == Input::Terminal) {
      system_call(kCode, "the terminal", [&] { return ::ioctl(slave.get(), TIOCSCTTY, 0); });
    }
    place(input == Input::Terminal ? slave.get() : null.get(), STDIN_FILENO);
    place(slave.get(), STDOUT_FILENO);
    place(slave.get(), STDERR_FILENO);
    // All are close-on-exec; this makes it certain.
    ::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
    become_builder(job, talk.get());
    system_call(kCode, job.build_dir, [&] { return ::chdir(job.build_dir.c_str()); });
    become(job, builtin);
  } catch (const std::exception& error) {
    const std::string text = kFailed + std::string(error.what());
    (void)!::write(talk.get(), text.data(), text.size());
  }
  ::_exit(1);
}

void write_maps(pid_t pid, const sandbox::GuestJob& job) {
  const auto folder = "/proc/" + std::to_string(pid);
  const auto uid = std::to_string(job.uid);
  const auto gid = std::to_string(job.gid);
  write_kernel_file(folder + "/setgroups", "deny");
  if (!write_kernel_file(folder + "/uid_map", uid + " " + uid + " 1") ||
      !write_kernel_file(folder + "/gid_map", gid + " " + gid + " 1")) {
    throw_system_error(kCode, "the builder's user namespace");
  }
}

/// Until the child has been executed (the socket closes) or has said why not.
std::string talk_to_child(const UniqueFd& talk, pid_t pid, const sandbox::GuestJob& job) {
  std::string said;
  std::array<char, 4096> piece{};
  for (;;) {
    const auto got = system_call(kCode, "starting the builder", [&] {
      return ::read(talk.get(), piece.data(), piece.size());
    });
    if (got == 0) {
      break;
    }
    said.append(piece.data(), static_cast<std::size_t>(got));
    if (said == std::string(1, kUserNamespace) || said == std::string(1, kNoUserNamespace)) {
      if (said[0] == kUserNamespace) {
        write_maps(pid, job);
      }
      said.clear();
      write_all(talk.get(), bytes_of(std::string_view(&kGo, 1)));
    }
  }
  return said.empty() ? said : said.substr(1);
}

} // namespace

Builder
start_builder(const sandbox::GuestJob& job, const std::string& root, int initramfs, Input input) {
  auto pty = open_pty(job, input);
  int ends[2];
  system_call(kCode, "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  UniqueFd mine(ends[0]);
  UniqueFd theirs(ends[1]);
  const long namespaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
                          (job.network ? 0 : CLONE_NEWNET) | SIGCHLD;
  const auto pid = static_cast<pid_t>(system_call(kCode, "clone", [&] {
    return ::syscall(SYS_clone, namespaces, nullptr, nullptr, nullptr, nullptr);
  }));
  if (pid == 0) {
    mine.reset();
    pty.master.reset();
    run_child(job, root, initramfs, input, std::move(pty.slave), std::move(theirs));
  }
  theirs.reset();
  pty.slave.reset();
  write_kernel_file("/cgroup/build/cgroup.procs", std::to_string(pid));
  Builder builder{pid, std::move(pty.master), {}};
  builder.failure = talk_to_child(mine, pid, job);
  if (!builder.failure.empty()) {
    ::waitpid(pid, nullptr, 0);
    builder.pid = -1;
  }
  return builder;
}

} // namespace nixbuild::guest
