// Plays an emulator that a guest has taken over: tries, one after the other, what it should not be
// able to do, and writes a line for each: a name, and how the kernel answered. It needs no library
// of ours, so that it can be put anywhere.
//
//     hostile-emulator INPUT INITRAMFS DESCRIPTOR PORT HOST-PID    (numbers of descriptors, a
//     process) hostile-emulator old-abi

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

/// A result of a call, as a word: `done`, or the error's name.
void tell(const char* name, long result) {
  const int error = errno;
  std::printf("%s %s\n", name, result >= 0 ? "done" : ::strerrorname_np(error));
  std::fflush(stdout);
}

std::string path_of(int fd, const char* process = "self") {
  return "/proc/" + std::string(process) + "/fd/" + std::to_string(fd);
}

/// Opens, writes where that worked, closes.
long overwrite(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0600);
  if (fd < 0) {
    return -1;
  }
  const auto put = ::write(fd, "taken over", 10);
  const int error = errno;
  ::close(fd);
  errno = error;
  return put;
}

long in_child(long pid) {
  if (pid == 0) {
    ::_exit(0);
  }
  return pid;
}

void attack_inputs(int input, int initramfs, int descriptor) {
  tell("write-input", ::write(input, "x", 1));
  tell("reopen-input", overwrite(path_of(input), O_RDWR));
  tell("reopen-input-truncating", overwrite(path_of(input), O_WRONLY | O_TRUNC));
  tell("reopen-input-appending", overwrite(path_of(input), O_WRONLY | O_APPEND));
  tell("reopen-input-by-thread",
       overwrite("/proc/thread-self/fd/" + std::to_string(input), O_RDWR));
  tell("reopen-input-by-number", overwrite(path_of(input, "1"), O_RDWR));
  tell("reopen-input-direct", overwrite(path_of(input), O_WRONLY | O_DIRECT | O_SYNC));
  tell("reopen-initramfs", overwrite(path_of(initramfs), O_RDWR));
  tell("truncate-input", ::ftruncate(input, 0));
  tell("truncate-input-by-path", ::truncate(path_of(input).c_str(), 0));
  tell("punch-input", ::fallocate(input, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
  tell("chmod-input", ::fchmod(input, 0666));
  tell("chmod-input-by-path", ::chmod(path_of(input).c_str(), 0666));
  tell("chown-input", ::fchown(input, ::getuid(), ::getgid()));
  tell("age-input", ::futimens(input, nullptr));
  tell("label-input", ::fsetxattr(input, "user.taken", "x", 1, 0));
  int attributes = FS_NODUMP_FL;
  tell("flag-input", ::ioctl(input, FS_IOC_SETFLAGS, &attributes));
  tell("link-input", ::linkat(AT_FDCWD, path_of(input).c_str(), AT_FDCWD, "/x", AT_SYMLINK_FOLLOW));
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, input, 0);
  tell("map-input", page == MAP_FAILED ? -1 : 0);
  page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, input, 0);
  tell("unprotect-input", ::mprotect(page, 4096, PROT_READ | PROT_WRITE));
  tell("lease-input", ::fcntl(input, F_SETLEASE, F_RDLCK));
  tell("watch-input", ::fcntl(input, F_NOTIFY, 1));

  struct flock lock {};

  lock.l_type = F_WRLCK;
  tell("lock-input", ::fcntl(input, F_OFD_SETLK, &lock));
  tell("write-descriptor", ::write(descriptor, "x", 1));
  tell("reopen-descriptor", overwrite(path_of(descriptor), O_RDWR));
  // These are its own business, and nobody else may notice.
  tell("seek-input", ::lseek(input, 4096, SEEK_SET));
  tell("direct-input", ::fcntl(input, F_SETFL, O_RDONLY | O_DIRECT | O_NOATIME));
}

void attack_files() {
  tell("make-file", ::open("/x", O_WRONLY | O_CREAT, 0600));
  tell("make-file-in-dev", ::open("/dev/x", O_WRONLY | O_CREAT, 0600));
  tell("make-folder", ::mkdir("/x", 0700));
  tell("make-device", ::mknod("/x", S_IFBLK | 0600, 0x800));
  tell("read-users", ::open("/etc/passwd", O_RDONLY));
  tell("read-homes", ::open("/root", O_RDONLY));
  tell("list-programs", ::open("/usr/bin", O_RDONLY | O_DIRECTORY));
  tell("list-nix-store", ::open("/nix/store", O_RDONLY | O_DIRECTORY));
  tell("read-kernel-memory", ::open("/proc/kcore", O_RDONLY));
  tell("write-sysctl", ::open("/proc/sys/kernel/core_pattern", O_WRONLY));
  tell("press-sysrq", ::open("/proc/sysrq-trigger", O_WRONLY));
  tell("open-memory-device", ::open("/dev/mem", O_RDWR));
  tell("overwrite-itself", overwrite("/proc/self/exe", O_WRONLY));
  tell("mount", ::mount("none", "/proc", "tmpfs", 0, nullptr));
  tell("remount", ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND, nullptr));
  tell("unmount", ::umount2("/proc", MNT_DETACH));
  tell("copy-mount", ::syscall(SYS_open_tree, AT_FDCWD, "/", 1));
  tell("change-root", ::chroot("/"));
  tell("pivot-root", ::syscall(SYS_pivot_root, "/", "/"));
  char handle[64] = {};
  tell("open-by-handle", ::syscall(SYS_open_by_handle_at, 0, handle, O_RDONLY));
}

void attack_processes(pid_t host_process) {
  std::array<char*, 2> nothing{nullptr, nullptr};
  tell("fork", in_child(::syscall(SYS_fork)));
  tell("vfork", in_child(::syscall(SYS_vfork)));
  tell("clone-process", in_child(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)));
  tell("clone-user", in_child(::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)));
  tell("clone3", ::syscall(SYS_clone3, nullptr, 0));
  tell("execute-shell", ::execve("/bin/sh", nothing.data(), nothing.data()));
  tell("execute-by-descriptor",
       ::syscall(SYS_execveat, 0, "", nothing.data(), nothing.data(), AT_EMPTY_PATH));
  tell("trace", ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
  tell("read-other-memory", ::process_vm_readv(host_process, nullptr, 0, nullptr, 0, 0));
  tell("kill-all", ::kill(-1, SIGKILL));
  tell("kill-host-process", ::kill(host_process, SIGKILL));
  tell("hold-host-process", ::syscall(SYS_pidfd_open, host_process, 0));
  tell("see-host-process",
       ::open(path_of(0, std::to_string(host_process).c_str()).c_str(), O_RDONLY));
  tell("unshare", ::unshare(CLONE_NEWUSER));
  tell("join-namespace", ::setns(0, 0));
  tell("become-root", ::setuid(0));
  tell("take-capabilities", ::syscall(SYS_capset, nullptr, nullptr));
}

void attack_kernel() {
  tell("internet-socket", ::socket(AF_INET, SOCK_STREAM, 0));
  tell("unix-socket", ::socket(AF_UNIX, SOCK_STREAM, 0));
  tell("netlink-socket", ::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  tell("packet-socket", ::socket(AF_PACKET, SOCK_RAW, 0));
  tell("machine-socket", ::socket(AF_VSOCK, SOCK_STREAM, 0));
  bpf_attr program{};
  tell("bpf", ::syscall(SYS_bpf, BPF_PROG_LOAD, &program, sizeof program));
  perf_event_attr event{};
  tell("perf", ::syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
  tell("userfaultfd", ::syscall(SYS_userfaultfd, 0));
  tell("io-uring", ::syscall(SYS_io_uring_setup, 1, nullptr));
  tell("keyring", ::syscall(SYS_keyctl, 0, 0, 0, 0, 0));
  tell("load-module", ::syscall(SYS_finit_module, 0, "", 0));
  tell("load-kernel", ::syscall(SYS_kexec_load, 0, 0, nullptr, 0));
  tell("reboot", ::syscall(SYS_reboot, 0, 0, 0, nullptr));
  tell("kernel-log", ::syscall(SYS_syslog, 3, nullptr, 0));
  tell("set-clock", ::syscall(SYS_settimeofday, nullptr, nullptr));
  tell("set-name", ::sethostname("taken", 5));
  tell("ports", ::syscall(SYS_iopl, 3));
  tell("personality", ::syscall(SYS_personality, 0x0400000));
  tell("shared-memory", ::shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600));
  tell("memory-file", ::memfd_create("x", 0));
  tell("watch-files", ::inotify_init1(0));
  tell("other-abi", ::syscall(0x40000000 | SYS_getpid));
  tell("unknown-call", ::syscall(600));
  tell("terminal-input", ::ioctl(0, TIOCSTI, "x"));
}

void* wait_for_ever(void*) {
  for (;;) {
    ::pause();
  }
}

void attack_limits() {
  const rlimit more{1 << 20, 1 << 20};
  tell("more-descriptors", ::setrlimit(RLIMIT_NOFILE, &more));
  const rlimit cores{RLIM_INFINITY, RLIM_INFINITY};
  tell("core-files", ::setrlimit(RLIMIT_CORE, &cores));
  constexpr std::size_t much = std::size_t{1} << 40;
  void* memory = ::mmap(
      nullptr, much, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  tell("map-terabyte", memory == MAP_FAILED ? -1 : 0);
  int threads = 0;
  pthread_attr_t small;
  ::pthread_attr_init(&small);
  ::pthread_attr_setstacksize(&small, 65536);
  pthread_t thread{};
  while (threads < 2000 && ::pthread_create(&thread, &small, wait_for_ever, nullptr) == 0) {
    ++threads;
  }
  std::printf("threads %s\n", threads > 4 && threads < 300 ? "bounded" : "unbounded");
}

} // namespace

int main(int argc, char** argv) {
  if (argc == 2) {
    long result = 20; // getpid of the old ABI
    asm volatile("int $0x80" : "+a"(result) : : "memory");
    std::printf("old-abi done\n");
    return 0;
  }
  if (argc != 6) {
    return 2;
  }
  attack_inputs(std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]));
  attack_files();
  attack_processes(std::atoi(argv[5]));
  attack_kernel();
  attack_limits();
  std::puts("end done");
  std::fflush(stdout);
  ::_exit(0);
}
