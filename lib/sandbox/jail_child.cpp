#include "sandbox/jail_steps.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

// Only system calls: between clone and exec of a process that may have threads.
namespace nixbuild::sandbox::jail {

namespace {

constexpr int kLandScopes = 6;                 ///< the version that has them
constexpr std::uint64_t kLandAllScopes = 0b11; ///< abstract sockets, signals

/// As the kernel's own structure is from version 6 on.
struct LandRuleset {
  std::uint64_t files;
  std::uint64_t network;
  std::uint64_t scopes;
};

/// All rights on files that a version knows; what is not granted by a rule is denied.
constexpr std::uint64_t land_rights(int version) noexcept {
  // Rights of the versions 1 to 5: 13 at first, then moving files, truncating, device commands.
  const int rights = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
  return (1ULL << rights) - 1;
}

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
    set_descriptors();
    set_limits();
    drop_privileges();
    restrict_files();
    restrict_system_calls();
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
             "nixbuild", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=4m,nr_inodes=4096") ==
             0,
         "mounting the empty root");
    for (const auto& step : plan_.mounts) {
      do_mount(step);
    }
    hand_over_files();
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

  /// Opens each file again, for reading, below a copy of its mount that is read-only: whoever opens
  /// it by its descriptor for writing is refused by the mount, be it the file's owner or not.
  void hand_over_files() noexcept {
    int tree = -1;
    const HandedFile* last = nullptr;
    for (const auto& file : plan_.files) {
      if (file.folder.empty()) {
        continue;
      }
      if (last == nullptr || last->folder != file.folder) {
        ::close(tree);
        tree = read_only_tree(file.folder.c_str());
      }
      last = &file;
      const int again = ::openat(tree, file.name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
      if (again < 0 && errno == ENOENT) {
        errno = ESTALE;
      }
      must(again >= 0, "opening an input read-only");

      struct stat status {};

      must(::fstat(again, &status) == 0, "looking at an input");
      if (status.st_dev != file.device || status.st_ino != file.inode) {
        errno = ESTALE;
        fail("handing over an input");
      }
      must(::dup3(again, file.fd, O_CLOEXEC) == file.fd, "handing over an input");
      ::close(again);
    }
    ::close(tree);
  }

  int read_only_tree(const char* folder) noexcept {
    const int tree = copy_tree(folder, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
    if (tree < 0 && errno == ENOENT) {
      errno = ESTALE;
    }
    must(tree >= 0, "making a read-only mount of the inputs");
    return tree;
  }

  /// A copy of what is mounted at and below a path, with more restrictions; -1: see errno. Whole,
  /// because in a user namespace what is mounted on top may not be left out.
  int copy_tree(const char* path, std::uint64_t restrictions) noexcept {
    const int tree =
        ::open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    mount_attr attributes{};
    attributes.attr_set = restrictions | MOUNT_ATTR_NOSUID;
    if (tree >= 0 &&
        ::mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) !=
            0) {
      const int error = errno;
      ::close(tree);
      errno = error;
      return -1;
    }
    return tree;
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
    const bool device = extra == 0;
    const int tree = copy_tree(step.source.c_str(),
                               device ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
    if (tree >= 0) {
      must(::move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0, what);
      ::close(tree);
      return;
    }
    // A kernel before 5.12 makes only the mount on top read-only.
    must(errno == ENOSYS, what);
    must(::mount(step.source.c_str(), target, nullptr, MS_BIND | MS_REC, nullptr) == 0, what);
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
    if (plan_.address_space != 0) {
      limit(RLIMIT_AS, plan_.address_space, "RLIMIT_AS");
    }
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
    if (plan_.drop_bounds) {
      // From the bounding set while CAP_SETPCAP is still there; what follows empties the rest.
      for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
        must(::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0, "capability bounds");
      }
    }
    if (plan_.change_user) {
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

  /// Landlock: a second lock on what the root shows, and the only one where there is no root.
  void restrict_files() noexcept {
    if (plan_.land_version == 0) {
      return;
    }
    const auto handled = land_rights(plan_.land_version);
    LandRuleset attributes{handled, 0, plan_.land_version >= kLandScopes ? kLandAllScopes : 0};
    const int rules = static_cast<int>(
        ::syscall(SYS_landlock_create_ruleset,
                  &attributes,
                  plan_.land_version >= kLandScopes ? sizeof attributes : sizeof attributes.files,
                  0));
    must(rules >= 0, "Landlock");
    for (const auto& rule : plan_.land_rules) {
      const int file = rule.path.empty() ? rule.fd : ::open(rule.path.c_str(), O_PATH | O_CLOEXEC);
      if (file < 0) {
        continue; // what is not there needs no right
      }
      allow(rules, file, rule.access & handled);
      if (!rule.path.empty()) {
        ::close(file);
      }
    }
    must(::syscall(SYS_landlock_restrict_self, rules, 0) == 0, "Landlock");
    ::close(rules);
  }

  void allow(int rules, int file, std::uint64_t access) noexcept {
    struct stat status {};

    must(::fstat(file, &status) == 0, "Landlock");
    // Rights on folders are refused for files.
    const auto kept = S_ISDIR(status.st_mode) ? access : access & ~LANDLOCK_ACCESS_FS_READ_DIR;
    landlock_path_beneath_attr beneath{};
    beneath.allowed_access = kept;
    beneath.parent_fd = file;
    // What lies in no file system that can be seen, as memory files do, is not Landlock's business.
    must(::syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) == 0 ||
             errno == EBADFD,
         "a rule of Landlock");
  }

  void restrict_system_calls() noexcept {
    const sock_fprog program{static_cast<unsigned short>(plan_.filter.size()),
                             const_cast<sock_filter*>(plan_.filter.data())};
    must(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0,
         "the filter of system calls");
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
