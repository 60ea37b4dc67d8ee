#include "sandbox/syscall_rules.hpp"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

// A list of what is denied, not of what is allowed: emulators of ten years, their C libraries and
// sanitizers run under it, and calls that are newer than this list are all denied. What each group
// is denied for stands in front of it; docs/decisions/0029 says why the line is drawn here.
namespace nixbuild::sandbox::jail {

namespace {

struct Denied {
  int error;
  std::initializer_list<long> calls;
};

/// The last call that this list has an opinion on (mseal). Beyond it: as if the kernel were older.
constexpr std::uint32_t kLastKnown = 462;
constexpr std::uint32_t kX32Bit = 0x4000'0000;

// Numbers that not every libc header has.
constexpr long kMemfdSecret = 447;
constexpr long kProcessMrelease = 448;
constexpr long kFchmodat2 = 452;
constexpr long kStatmount = 457;
constexpr long kListmount = 458;
constexpr long kLsmSetSelfAttr = 460;

const std::initializer_list<Denied> kDenied = {
    // Another view of the file system, or a way around the one given.
    {EPERM,
     {SYS_mount,
      SYS_umount2,
      SYS_pivot_root,
      SYS_chroot,
      SYS_open_tree,
      SYS_move_mount,
      SYS_fsopen,
      SYS_fsconfig,
      SYS_fsmount,
      SYS_fspick,
      SYS_mount_setattr,
      SYS_open_by_handle_at,
      SYS_name_to_handle_at,
      SYS_quotactl,
      SYS_quotactl_fd,
      kStatmount,
      kListmount}},
    // Changes to files that descriptors lead to: who owns a file needs no write access for these.
    {EPERM,
     {SYS_chmod,
      SYS_fchmod,
      SYS_fchmodat,
      kFchmodat2,
      SYS_chown,
      SYS_fchown,
      SYS_lchown,
      SYS_fchownat,
      SYS_setxattr,
      SYS_lsetxattr,
      SYS_fsetxattr,
      SYS_removexattr,
      SYS_lremovexattr,
      SYS_fremovexattr,
      SYS_utime,
      SYS_utimes,
      SYS_futimesat,
      SYS_utimensat,
      SYS_truncate}},
    // Names: there is no folder that the emulator has anything to make in.
    {EPERM,
     {SYS_link,
      SYS_linkat,
      SYS_symlink,
      SYS_symlinkat,
      SYS_rename,
      SYS_renameat,
      SYS_renameat2,
      SYS_unlink,
      SYS_unlinkat,
      SYS_rmdir,
      SYS_mkdir,
      SYS_mkdirat,
      SYS_mknod,
      SYS_mknodat}},
    // More processes: threads are all that it starts. Without clone3, whose flags a filter cannot
    // see, the C library takes clone.
    {EPERM, {SYS_fork, SYS_vfork, SYS_execveat}},
    {ENOSYS, {SYS_clone3}},
    // Other processes.
    {EPERM,
     {SYS_ptrace,
      SYS_process_vm_readv,
      SYS_process_vm_writev,
      SYS_process_madvise,
      SYS_kcmp,
      SYS_pidfd_open,
      SYS_pidfd_getfd,
      SYS_pidfd_send_signal,
      SYS_kill,
      SYS_tkill,
      SYS_rt_sigqueueinfo,
      SYS_rt_tgsigqueueinfo,
      SYS_migrate_pages,
      SYS_move_pages,
      kProcessMrelease}},
    // Other namespaces and identities.
    {EPERM,
     {SYS_unshare,
      SYS_setns,
      SYS_setuid,
      SYS_setgid,
      SYS_setreuid,
      SYS_setregid,
      SYS_setresuid,
      SYS_setresgid,
      SYS_setgroups,
      SYS_setfsuid,
      SYS_setfsgid,
      SYS_capset,
      SYS_setsid,
      SYS_setpgid,
      SYS_personality,
      kLsmSetSelfAttr}},
    // Sockets: those of its ports come open, and there is nobody to talk to beside them.
    {EACCES, {SYS_socket, SYS_bind, SYS_connect, SYS_listen, SYS_accept, SYS_accept4}},
    // Memory that no limit of its address space counts.
    {ENOSYS, {SYS_memfd_create, kMemfdSecret}},
    {EPERM,
     {SYS_shmget,
      SYS_shmat,
      SYS_shmctl,
      SYS_msgget,
      SYS_msgsnd,
      SYS_msgrcv,
      SYS_msgctl,
      SYS_semget,
      SYS_semop,
      SYS_semctl,
      SYS_semtimedop,
      SYS_mq_open,
      SYS_mq_unlink}},
    // Large parts of the kernel that emulators do without: each had holes.
    {ENOSYS, {SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_userfaultfd}},
    {EPERM,
     {SYS_bpf,
      SYS_perf_event_open,
      SYS_add_key,
      SYS_request_key,
      SYS_keyctl,
      SYS_fanotify_init,
      SYS_fanotify_mark,
      SYS_inotify_init,
      SYS_inotify_init1,
      SYS_inotify_add_watch,
      SYS_iopl,
      SYS_ioperm,
      SYS_modify_ldt}},
    // The host as a whole.
    {EPERM, {SYS_init_module,   SYS_finit_module,    SYS_delete_module,
             SYS_kexec_load,    SYS_kexec_file_load, SYS_reboot,
             SYS_swapon,        SYS_swapoff,         SYS_acct,
             SYS_syslog,        SYS_settimeofday,    SYS_clock_settime,
             SYS_adjtimex,      SYS_clock_adjtime,   SYS_sethostname,
             SYS_setdomainname, SYS_vhangup,         SYS_uselib,
             SYS_ustat,         SYS_sysfs,           SYS_lookup_dcookie}},
};

/// A call that is denied where its second argument, a command, is this one.
struct DeniedCommand {
  long call;
  std::uint32_t command;
};

constexpr int kSetLease = 1024;
constexpr int kNotify = 1026;

const std::initializer_list<DeniedCommand> kDeniedCommands = {
    // A lease keeps others from opening the file.
    {SYS_fcntl, kSetLease},
    {SYS_fcntl, kNotify},
    // Input for somebody's terminal.
    {SYS_ioctl, TIOCSTI},
    {SYS_ioctl, TIOCLINUX},
    // Attributes of files, as above.
    {SYS_ioctl, FS_IOC_SETFLAGS},
    {SYS_ioctl, FS_IOC_FSSETXATTR},
};

constexpr std::uint32_t kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                         CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

using Filter = std::vector<sock_filter>;

void put(Filter& filter, unsigned code, std::uint32_t value) {
  filter.push_back({static_cast<std::uint16_t>(code), 0, 0, value});
}

/// Goes on where the test holds, else leaves out `skip` instructions.
void if_else_skip(Filter& filter, unsigned test, std::uint32_t value, std::uint8_t skip) {
  filter.push_back({static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), 0, skip, value});
}

void answer_with(Filter& filter, int error) {
  put(filter, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error));
}

void load(Filter& filter, std::size_t offset) {
  put(filter, BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
}

void load_argument(Filter& filter, std::size_t index) {
  load(filter, offsetof(seccomp_data, args) + index * sizeof(std::uint64_t)); // its low half
}

} // namespace

std::vector<sock_filter> emulator_syscall_filter() {
  Filter filter;
  load(filter, offsetof(seccomp_data, arch));
  filter.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64});
  put(filter, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS); // another ABI has other numbers
  load(filter, offsetof(seccomp_data, nr));
  if_else_skip(filter, BPF_JGE, kX32Bit, 1);
  answer_with(filter, EPERM);
  if_else_skip(filter, BPF_JGT, kLastKnown, 1);
  answer_with(filter, ENOSYS);
  for (const auto& group : kDenied) {
    for (const auto call : group.calls) {
      if_else_skip(filter, BPF_JEQ, static_cast<std::uint32_t>(call), 1);
      answer_with(filter, group.error);
    }
  }
  // A thread of this process in the same namespaces, and nothing else.
  if_else_skip(filter, BPF_JEQ, SYS_clone, 6);
  load_argument(filter, 0);
  if_else_skip(filter, BPF_JSET, kNewNamespaces, 1);
  answer_with(filter, EPERM);
  if_else_skip(filter, BPF_JSET, CLONE_THREAD, 1);
  put(filter, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  answer_with(filter, EPERM);
  for (const auto& denied : kDeniedCommands) {
    if_else_skip(filter, BPF_JEQ, static_cast<std::uint32_t>(denied.call), 4);
    load_argument(filter, 1);
    if_else_skip(filter, BPF_JEQ, denied.command, 1);
    answer_with(filter, EPERM);
    load(filter, offsetof(seccomp_data, nr));
  }
  put(filter, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  return filter;
}

} // namespace nixbuild::sandbox::jail
