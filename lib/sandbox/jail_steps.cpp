#include "sandbox/jail_steps.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/securebits.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace nixbuild::sandbox::jail {

namespace fs = std::filesystem;

namespace {

constexpr unsigned long kNoDevices = MS_NODEV;
constexpr unsigned long kBindFlags = MS_NOSUID | kNoDevices;

/// A bind inside a user namespace may not lose the flags that its source was mounted with.
unsigned long inherited_flags(const fs::path& source) {
  struct statvfs status {};

  if (::statvfs(source.c_str(), &status) != 0) {
    return 0;
  }
  unsigned long flags = 0;
  const auto take = [&](unsigned long have, unsigned long want) {
    if ((status.f_flag & have) != 0) {
      flags |= want;
    }
  };
  take(ST_NOSUID, MS_NOSUID);
  take(ST_NODEV, MS_NODEV);
  take(ST_NOEXEC, MS_NOEXEC);
  take(ST_NOATIME, MS_NOATIME);
  take(ST_NODIRATIME, MS_NODIRATIME);
  take(ST_RELATIME, MS_RELATIME);
  return flags;
}

void add_parents(std::vector<MountStep>& steps, const std::string& root, const fs::path& path) {
  fs::path so_far;
  for (const auto& part : path.parent_path().relative_path()) {
    so_far /= part;
    steps.push_back({MountKind::Directory, {}, root + "/" + so_far.string(), 0});
  }
}

void add_bind(std::vector<MountStep>& steps, const std::string& root, const fs::path& path) {
  std::error_code error;
  const auto status = fs::symlink_status(path, error);
  if (error || status.type() == fs::file_type::not_found) {
    return;
  }
  const auto target = root + path.string();
  add_parents(steps, root, path);
  if (status.type() == fs::file_type::symlink) {
    steps.push_back({MountKind::Link, fs::read_symlink(path, error).string(), target, 0});
    return;
  }
  const bool directory = status.type() == fs::file_type::directory;
  steps.push_back({directory ? MountKind::Directory : MountKind::File, {}, target, 0});
  steps.push_back({MountKind::Bind, path.string(), target, kBindFlags | inherited_flags(path)});
}

} // namespace

std::vector<MountStep> mount_steps(const JailSettings& settings, const std::string& root) {
  std::vector<MountStep> steps;
  for (const auto* path : {"/usr",
                           "/lib",
                           "/lib32",
                           "/lib64",
                           "/libx32",
                           "/bin",
                           "/sbin",
                           "/nix/store",
                           "/etc/ld.so.cache",
                           "/etc/alternatives"}) {
    add_bind(steps, root, path);
  }
  for (const auto& path : settings.extra_binds) {
    add_bind(steps, root, path);
  }
  steps.push_back({MountKind::Directory, {}, root + "/dev", 0});
  std::vector<std::string> devices{"/dev/null", "/dev/urandom"};
  if (settings.kvm) {
    devices.emplace_back("/dev/kvm");
  }
  for (const auto& device : devices) {
    steps.push_back({MountKind::File, {}, root + device, 0});
    steps.push_back({MountKind::Device,
                     device,
                     root + device,
                     MS_NOSUID | MS_NOEXEC | (inherited_flags(device) & ~kNoDevices)});
  }
  steps.push_back({MountKind::Directory, {}, root + "/proc", 0});
  steps.push_back({MountKind::Proc, {}, root + "/proc", 0});
  return steps;
}

namespace {

class Child {
public:
  explicit Child(const ChildPlan& plan) noexcept : plan_(plan) {}

  [[noreturn]] void run() noexcept {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    char go = 0;
    if (::read(plan_.status, &go, 1) != 1) {
      ::_exit(127); // whoever started this is gone
    }
    for (int signal = 1; signal < 32; ++signal) {
      ::signal(signal, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::setsid();
    ::umask(022);
    if (!plan_.root.empty()) {
      build_root();
    }
    set_limits();
    set_descriptors();
    drop_privileges();
    ::execve(plan_.argv[0], plan_.argv.data(), environment_);
    fail("starting the emulator");
  }

private:
  [[noreturn]] void fail(const char* step) noexcept {
    ChildFailure failure{};
    failure.error = errno;
    std::strncpy(failure.step, step, sizeof failure.step - 1);
    [[maybe_unused]] const auto told = ::write(plan_.status, &failure, sizeof failure);
    ::_exit(127);
  }

  void must(bool good, const char* step) noexcept {
    if (!good) {
      fail(step);
    }
  }

  void build_root() noexcept {
    const char* root = plan_.root.c_str();
    must(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "private mounts");
    must(::mount(
             "nixbuild", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=512") ==
             0,
         "mounting the empty root");
    for (const auto& step : plan_.mounts) {
      do_mount(step);
    }
    must(::chdir(root) == 0, "entering the new root");
    must(::syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root");
    must(::umount2(".", MNT_DETACH) == 0, "detaching the old root");
    must(::chdir("/") == 0, "entering /");
    must(::mount(nullptr,
                 "/",
                 nullptr,
                 MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV,
                 nullptr) == 0,
         "making the root read-only");
    [[maybe_unused]] const auto named = ::sethostname("nixbuild", 8);
  }

  void do_mount(const MountStep& step) noexcept {
    const char* source = step.source.c_str();
    const char* target = step.target.c_str();
    switch (step.kind) {
    case MountKind::Directory:
      must(::mkdir(target, 0755) == 0 || errno == EEXIST, "making a folder of the root");
      break;
    case MountKind::File: {
      const int fd = ::open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
      must(fd >= 0, "making a file of the root");
      ::close(fd);
      break;
    }
    case MountKind::Link:
      must(::symlink(source, target) == 0, "making a link of the root");
      break;
    case MountKind::Bind:
      bind(step, MS_RDONLY, "binding system files");
      break;
    case MountKind::Device:
      bind(step, 0, "binding a device");
      break;
    case MountKind::Proc: {
      const auto flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
      must(::mount("proc", target, "proc", flags, "subset=pid") == 0 ||
               ::mount("proc", target, "proc", flags, nullptr) == 0,
           "mounting /proc");
      break;
    }
    }
  }

  void bind(const MountStep& step, unsigned long extra, const char* what) noexcept {
    const char* target = step.target.c_str();
    must(::mount(step.source.c_str(), target, nullptr, MS_BIND | MS_REC, nullptr) == 0,
         what); // with what is mounted below: a tree without is refused to an ordinary user
    must(::mount(nullptr, target, nullptr, MS_REMOUNT | MS_BIND | extra | step.flags, nullptr) == 0,
         what);
  }

  void limit(__rlimit_resource resource, rlim_t value, const char* what) noexcept {
    rlimit now{};
    must(::getrlimit(resource, &now) == 0, what);
    const rlim_t wanted =
        now.rlim_max != RLIM_INFINITY && now.rlim_max < value ? now.rlim_max : value;
    const rlimit next{wanted, wanted};
    must(::setrlimit(resource, &next) == 0, what);
  }

  void set_limits() noexcept {
    limit(RLIMIT_CORE, 0, "RLIMIT_CORE");
    limit(RLIMIT_NOFILE, plan_.descriptors, "RLIMIT_NOFILE");
    limit(RLIMIT_FSIZE, plan_.file_bytes, "RLIMIT_FSIZE");
    if (plan_.threads != 0) {
      limit(RLIMIT_NPROC, plan_.threads, "RLIMIT_NPROC");
    }
  }

  void set_descriptors() noexcept {
    must(::dup2(plan_.input, 0) == 0, "standard input");
    must(::dup2(plan_.output, 1) == 1, "standard output");
    must(::dup2(plan_.output, 2) == 2, "standard error");
    must(::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) == 0, "close_range");
    for (const int fd : plan_.keep) {
      must(::fcntl(fd, F_SETFD, 0) == 0, "handing over a descriptor");
    }
  }

  void drop_privileges() noexcept {
    if (plan_.change_user) {
      // From the bounding set while CAP_SETPCAP is still there; the user change empties the rest.
      for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
        must(::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0, "capability bounds");
      }
      must(::syscall(SYS_setgroups, plan_.groups.size(), plan_.groups.data()) == 0, "setgroups");
      must(::syscall(SYS_setresgid, plan_.gid, plan_.gid, plan_.gid) == 0, "setresgid");
      must(::syscall(SYS_setresuid, plan_.uid, plan_.uid, plan_.uid) == 0, "setresuid");
    }
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    const __user_cap_data_struct none[2]{};
    must(::syscall(SYS_capset, &header, none) == 0, "capset");
    must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    // A change of user has cleared it.
    must(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "PDEATHSIG");
  }

  const ChildPlan& plan_;
  char path_[40] = "PATH=/usr/bin:/bin";
  char* environment_[2] = {path_, nullptr};
};

} // namespace

void run_child(const ChildPlan& plan) noexcept {
  Child(plan).run();
}

} // namespace nixbuild::sandbox::jail
