#include "sandbox/jail_steps.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/jail.hpp>
#include <nixbuild/sandbox/probe.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr const char* kJailCode = "sandbox.spawn";

struct Clone {
  pid_t pid = -1;
  int pidfd = -1;
};

/// fork with namespaces. The child returns 0 in `pid`.
Clone clone_process(std::uint64_t flags) noexcept {
  Clone result;
  clone_args arguments{};
  arguments.flags = flags | CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&result.pidfd);
  arguments.exit_signal = SIGCHLD;
  result.pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  return result;
}

bool write_text(const std::string& path, std::string_view text) noexcept {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  const bool good = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return good;
}

void map_own_user(pid_t pid) {
  const auto process = fmt::format("/proc/{}/", pid);
  write_text(process + "setgroups", "deny");
  if (!write_text(process + "uid_map", fmt::format("{0} {0} 1\n", ::getuid())) ||
      !write_text(process + "gid_map", fmt::format("{0} {0} 1\n", ::getgid()))) {
    throw_system_error(kJailCode, "mapping the user of the emulator");
  }
}

/// Makes the cgroup and moves the process there; the folder's path, or empty and why not.
fs::path enter_cgroup(const JailSettings& settings, pid_t pid, std::string& shortfall) {
  if (settings.cgroup_parent.empty()) {
    return {};
  }
  const auto folder = settings.cgroup_parent / settings.cgroup_name;
  std::error_code error;
  fs::create_directory(folder, error);
  const auto put = [&](const char* file, const std::string& text) {
    return write_text((folder / file).string(), text);
  };
  if (settings.memory_max != 0) {
    put("memory.max", std::to_string(settings.memory_max));
    put("memory.swap.max", "0");
    put("memory.oom.group", "1");
  }
  put("pids.max", std::to_string(settings.threads));
  if (!put("cgroup.procs", std::to_string(pid))) {
    shortfall += fmt::format(
        "no cgroup below {}: {}; ", settings.cgroup_parent.string(), std::strerror(errno));
    fs::remove(folder, error);
    return {};
  }
  return folder;
}

jail::ChildPlan plan_child(const JailSettings& settings,
                           std::span<const std::string> arguments,
                           std::span<const int> keep) {
  jail::ChildPlan plan;
  plan.descriptors = settings.descriptors;
  plan.file_bytes = settings.file_bytes;
  plan.keep.assign(keep.begin(), keep.end());
  if (settings.uid) {
    plan.change_user = true;
    plan.uid = *settings.uid;
    plan.gid = static_cast<gid_t>(*settings.uid);
    plan.threads = settings.threads;
    if (settings.kvm) {
      plan.groups = kvm_groups();
    }
  }
  for (const auto& argument : arguments) {
    plan.argv.push_back(const_cast<char*>(argument.c_str()));
  }
  plan.argv.push_back(nullptr);
  return plan;
}

/// Waits for the exec (the socket closes) or for a report of what failed.
void wait_for_exec(int status) {
  jail::ChildFailure failure{};
  const auto got = system_call(kJailCode, "waiting for the emulator to start", [&] {
    return ::recv(status, &failure, sizeof failure, MSG_WAITALL);
  });
  if (got == sizeof failure) {
    failure.step[sizeof failure.step - 1] = '\0';
    throw Error(Reaction::Internal,
                kJailCode,
                fmt::format("{}: {}", failure.step, std::strerror(failure.error)));
  }
}

} // namespace

JailedProcess::JailedProcess(pid_t pid, UniqueFd pidfd, JailReport report, fs::path cgroup)
    : pid_(pid), pidfd_(std::move(pidfd)), report_(std::move(report)), cgroup_(std::move(cgroup)) {}

JailedProcess::~JailedProcess() {
  destroy();
}

JailedProcess::JailedProcess(JailedProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)),
      report_(std::move(other.report_)), cgroup_(std::move(other.cgroup_)) {}

JailedProcess& JailedProcess::operator=(JailedProcess&& other) noexcept {
  if (this != &other) {
    destroy();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    report_ = std::move(other.report_);
    cgroup_ = std::move(other.cgroup_);
  }
  return *this;
}

void JailedProcess::destroy() noexcept {
  if (pid_ > 0) {
    kill();
    reap();
  }
}

void JailedProcess::kill() noexcept {
  if (pid_ > 0) {
    // In its own PID namespace it is the first process, so all others die with it.
    ::kill(pid_, SIGKILL);
  }
}

JailedProcess::Usage JailedProcess::reap() noexcept {
  Usage usage;
  if (pid_ <= 0) {
    return usage;
  }
  rusage used{};
  while (::wait4(pid_, &usage.wait_status, 0, &used) < 0 && errno == EINTR) {
  }
  const auto microseconds = [](const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(time.tv_usec);
  };
  usage.peak_rss_bytes = static_cast<std::uint64_t>(used.ru_maxrss) * 1024;
  usage.cpu_user_us = microseconds(used.ru_utime);
  usage.cpu_system_us = microseconds(used.ru_stime);
  pid_ = -1;
  if (!cgroup_.empty()) {
    std::error_code ignored;
    fs::remove(cgroup_, ignored);
    cgroup_.clear();
  }
  return usage;
}

JailedProcess start_jailed(const JailSettings& settings,
                           std::span<const std::string> arguments,
                           std::span<const int> keep,
                           int output) {
  const bool root = ::geteuid() == 0;
  const auto mount_point = settings.directory / "root";
  std::error_code error;
  fs::create_directory(mount_point, error);
  int ends[2];
  system_call(kJailCode, "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  const UniqueFd parent_end(ends[0]);
  UniqueFd child_end(ends[1]);
  const UniqueFd input(system_call(
      kJailCode, "/dev/null", [&] { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }));

  auto plan = plan_child(settings, arguments, keep);
  plan.root = mount_point.string();
  plan.mounts = jail::mount_steps(settings, plan.root);
  plan.input = input.get();
  plan.output = output;
  plan.status = child_end.get();

  constexpr std::uint64_t kNamespaces =
      CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID;
  JailReport report;
  report.own_uid = settings.uid.has_value();
  auto clone = clone_process(root ? kNamespaces : kNamespaces | CLONE_NEWUSER);
  if (clone.pid == 0) {
    jail::run_child(plan);
  }
  if (clone.pid > 0) {
    report.namespaces = true;
    report.user_namespace = !root;
  } else {
    report.shortfall += fmt::format("no namespaces: {}; ", std::strerror(errno));
    plan.root.clear();
    clone = clone_process(0);
    if (clone.pid == 0) {
      jail::run_child(plan);
    }
    if (clone.pid < 0) {
      throw_system_error(kJailCode, "starting a process");
    }
  }
  if (!settings.uid) {
    report.shortfall += "the emulator has no user of its own; ";
  }
  UniqueFd pidfd(clone.pidfd);
  child_end.reset();
  auto cgroup = enter_cgroup(settings, clone.pid, report.shortfall);
  report.cgroup = !cgroup.empty();
  JailedProcess process(clone.pid, std::move(pidfd), std::move(report), std::move(cgroup));
  if (process.report().user_namespace) {
    map_own_user(clone.pid);
  }
  system_call(kJailCode, "starting the emulator", [&] {
    return ::send(parent_end.get(), "g", 1, MSG_NOSIGNAL);
  });
  wait_for_exec(parent_end.get());
  fs::remove(mount_point, error);
  return process;
}

} // namespace nixbuild::sandbox
