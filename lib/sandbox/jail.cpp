#include "sandbox/jail_steps.hpp"
#include "sandbox/program_files.hpp"
#include "sandbox/syscall_rules.hpp"

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
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
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

/// Whether RLIMIT_NPROC counts the processes of a user namespace, not those of the whole user (from
/// 5.14 on).
bool counts_by_namespace() noexcept {
  constexpr int counting = 5 * 1000 + 14;
  utsname names{};
  int major = 0;
  int minor = 0;
  return ::uname(&names) == 0 && std::sscanf(names.release, "%d.%d", &major, &minor) == 2 &&
         major * 1000 + minor >= counting;
}

jail::ChildPlan plan_child(const JailSettings& settings,
                           std::span<const std::string> arguments,
                           std::span<const int> keep) {
  jail::ChildPlan plan;
  plan.descriptors = settings.descriptors;
  plan.file_bytes = settings.file_bytes;
  plan.address_space = settings.address_space;
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
  plan.filter = jail::emulator_syscall_filter();
  return plan;
}

/// What the process sees of the host, and what it may do with it.
void plan_files(jail::ChildPlan& plan,
                const JailSettings& settings,
                std::span<const int> keep,
                JailReport& report) {
  const auto seen =
      settings.files.empty() ? files_of_program(plan.argv[0]) : decode_files(settings.files);
  plan.mounts = jail::mount_steps(settings, seen, plan.root);
  plan.files = jail::handed_files(keep, settings.writable);
  const auto nameless = std::count_if(
      plan.files.begin(), plan.files.end(), [](const auto& file) { return file.folder.empty(); });
  plan.land_version = jail::landlock_version();
  plan.land_rules = jail::land_rules(settings, seen, plan.files);
  if (!jail::can_copy_mounts()) {
    plan.files.clear();
    report.shortfall += "inputs are on mounts that can be written: this kernel copies no mounts; ";
  }
  if (nameless > 0 && plan.land_version == 0 && !settings.uid) {
    // Removed while a build held it, or never named. Landlock or another user would keep it.
    report.shortfall += fmt::format("{} inputs without names can be written; ", nameless);
  }
  report.read_only = jail::can_copy_mounts();
  report.landlock = plan.land_version != 0;
  report.syscalls = true;
  if (!report.landlock) {
    report.shortfall += "no Landlock in this kernel; ";
  }
  if (sees_whole_system(seen)) {
    report.shortfall +=
        fmt::format("{} is a script, so that all programs of this host are seen; ", plan.argv[0]);
  }
}

/// Waits for the exec (the socket closes) or for a report of what failed. False: a file was given
/// another name meanwhile.
[[nodiscard]] bool wait_for_exec(int status) {
  jail::ChildFailure failure{};
  const auto got = system_call(kJailCode, "waiting for the emulator to start", [&] {
    return ::recv(status, &failure, sizeof failure, MSG_WAITALL);
  });
  if (got == sizeof failure) {
    if (failure.error == ESTALE) {
      return false;
    }
    failure.step[sizeof failure.step - 1] = '\0';
    throw Error(Reaction::Internal,
                kJailCode,
                fmt::format("{}: {}", failure.step, std::strerror(failure.error)));
  }
  return true;
}

} // namespace

std::string program_files(const fs::path& program) {
  return encode_files(files_of_program(program));
}

std::string walls_of(const JailReport& report) {
  std::string walls;
  const auto add = [&](bool stands, const char* wall) {
    if (stands) {
      walls += (walls.empty() ? "" : ", ") + std::string(wall);
    }
  };
  add(report.namespaces, "namespaces with an empty root");
  add(report.own_uid, "a user of its own");
  add(report.read_only, "inputs on read-only mounts");
  add(report.landlock, "Landlock");
  add(report.syscalls, "a filter of system calls");
  add(report.cgroup, "a control group");
  return walls;
}

JailedProcess::JailedProcess(pid_t pid, UniqueFd pidfd, JailReport report)
    : pid_(pid), pidfd_(std::move(pidfd)), report_(std::move(report)) {}

JailedProcess::~JailedProcess() {
  destroy();
}

JailedProcess::JailedProcess(JailedProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)),
      report_(std::move(other.report_)) {}

JailedProcess& JailedProcess::operator=(JailedProcess&& other) noexcept {
  if (this != &other) {
    destroy();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    report_ = std::move(other.report_);
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
  return usage;
}

namespace {

/// Nothing: a file was given another name meanwhile.
std::optional<JailedProcess> try_to_start(const JailSettings& settings,
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
  plan.input = input.get();
  plan.output = output;
  plan.status = child_end.get();

  constexpr std::uint64_t kNamespaces =
      CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID;
  JailReport report;
  report.own_uid = settings.uid.has_value();
  plan_files(plan, settings, keep, report);
  plan.drop_bounds = true;
  if (!root && counts_by_namespace()) {
    plan.threads = settings.threads;
  }
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
    plan.files.clear();
    plan.drop_bounds = root;
    plan.threads = settings.uid ? settings.threads : 0;
    report.read_only = false;
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
  if (settings.cgroup != nullptr) {
    report.cgroup = settings.cgroup->add(clone.pid);
    report.shortfall += settings.cgroup->shortfall();
  }
  JailedProcess process(clone.pid, std::move(pidfd), std::move(report));
  if (process.report().user_namespace) {
    map_own_user(clone.pid);
  }
  system_call(kJailCode, "starting the emulator", [&] {
    return ::send(parent_end.get(), "g", 1, MSG_NOSIGNAL);
  });
  const bool started = wait_for_exec(parent_end.get());
  fs::remove(mount_point, error);
  return started ? std::optional(std::move(process)) : std::nullopt;
}

} // namespace

JailedProcess start_jailed(const JailSettings& settings,
                           std::span<const std::string> arguments,
                           std::span<const int> keep,
                           int output) {
  // A store names its files once more while they are in use: then they are looked for again.
  constexpr int attempts = 10;
  for (int i = 0; i < attempts; ++i) {
    if (auto process = try_to_start(settings, arguments, keep, output)) {
      return std::move(*process);
    }
  }
  throw Error(Reaction::Internal,
              kJailCode,
              "the inputs cannot be handed over read-only: they are renamed again and again, or "
              "something is mounted over them");
}

} // namespace nixbuild::sandbox
