#include "machine.hpp"

#include "files.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <sstream>

namespace nixbuild::guest {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::seconds kPortPatience{20};
constexpr useconds_t kPortPause = 1000;
/// Sequential reads of a closure should not wait for each 128 KiB.
constexpr std::string_view kReadAheadKiB = "1024";
/// Of finit_module, for files that the kernel decompresses (since 5.17).
constexpr int kCompressedFile = 4;

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

/// Empty, or why the kernel has not taken it.
std::string load_module(int initramfs, const std::string& file) {
  const UniqueFd fd(::openat(initramfs, ("modules/" + file).c_str(), O_RDONLY | O_CLOEXEC));
  const int flags = file.ends_with(".ko") ? 0 : kCompressedFile;
  if ((!fd || ::syscall(SYS_finit_module, fd.get(), "", flags) != 0) && errno != EEXIST) {
    const auto trouble = file + ": " + std::strerror(errno);
    say_to_kernel("nixbuild-guest: module " + trouble);
    return trouble;
  }
  return {};
}

/// Device file of a port, once the kernel knows its name.
std::string find_port(std::string_view name) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/sys/class/virtio-ports", ignored)) {
    if (trimmed(read_file(entry.path() / "name")) == name) {
      return "/dev/" + entry.path().filename().string();
    }
  }
  return {};
}

bool host_is_connected(int port) {
  pollfd entry{port, POLLOUT, 0};
  return ::poll(&entry, 1, 0) >= 0 && (entry.revents & POLLHUP) == 0;
}

} // namespace

UniqueFd enter_memory_root() {
  UniqueFd initramfs(
      system_call(kCode, "/", [] { return ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC); }));
  // The initramfs itself cannot be pivoted away from; what is mounted over it can.
  mount_at("root", "/run", "tmpfs", MS_NOSUID, "mode=0755,size=1m");
  system_call(kCode, "/run", [] { return ::chdir("/run"); });
  mount_at(".", "/", nullptr, MS_MOVE);
  system_call(kCode, "/", [] { return ::chroot("."); });
  for (const auto* name : {"/proc", "/sys", "/dev", "/cgroup"}) {
    make_folder(name, 0755);
  }
  mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_at("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_at("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
  make_folder("/dev/pts", 0755);
  mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0600,ptmxmode=0600");
  // Only to count; kernels without it are counted by their processes' own reports.
  if (::mount("cgroup2", "/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0) {
    ::mkdir("/cgroup/build", 0755);
  }
  return initramfs;
}

std::string load_modules(int initramfs) {
  const UniqueFd order(::openat(initramfs, "modules/order", O_RDONLY | O_CLOEXEC));
  if (!order) {
    return {};
  }
  std::string troubles;
  std::istringstream lines(read_file("/proc/self/fd/" + std::to_string(order.get())));
  for (std::string line; std::getline(lines, line);) {
    if (const auto trouble = load_module(initramfs, line); !trouble.empty()) {
      troubles += (troubles.empty() ? "" : ", ") + trouble;
    }
  }
  return troubles;
}

UniqueFd open_port(std::string_view name, int flags) {
  const auto give_up = time_since_boot() + kPortPatience;
  std::string path;
  while ((path = find_port(name)).empty() && time_since_boot() < give_up) {
    ::usleep(kPortPause);
  }
  UniqueFd fd;
  while (!path.empty() && time_since_boot() < give_up) {
    // The device file comes a moment after the port, the host's connection after both.
    if (!fd) {
      fd.reset(::open(path.c_str(), flags | O_CLOEXEC));
    }
    if (fd && host_is_connected(fd.get())) {
      return fd;
    }
    ::usleep(kPortPause);
  }
  throw Error(Reaction::Internal, "guest.port", "no port " + std::string(name));
}

std::string find_disk(std::string_view serial) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/sys/block", ignored)) {
    if (trimmed(read_file(entry.path() / "serial")) == serial) {
      write_kernel_file(entry.path() / "queue/read_ahead_kb", kReadAheadKiB);
      return "/dev/" + entry.path().filename().string();
    }
  }
  return {};
}

void tune_kernel() {
  // Without these a builder could hard-link its inputs into its outputs.
  write_kernel_file("/proc/sys/fs/protected_hardlinks", "1");
  write_kernel_file("/proc/sys/fs/protected_symlinks", "1");
  // As everywhere: a request for more memory than there is fails, as tests of programs expect.
  write_kernel_file("/proc/sys/vm/overcommit_memory", "0");
  // The kernel's own; Debian's kernels say 3, which takes perf away even from its own processes.
  write_kernel_file("/proc/sys/kernel/perf_event_paranoid", "2");
  // What systemd sets everywhere else; the kernel's own goes by the number of cpus.
  write_kernel_file("/proc/sys/kernel/pid_max", "4194304");
}

std::chrono::microseconds time_since_boot() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::microseconds(now.tv_sec * 1'000'000 + now.tv_nsec / 1000);
}

void say_to_kernel(std::string_view text) noexcept {
  const UniqueFd fd(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  if (fd) {
    (void)!::write(fd.get(), text.data(), text.size());
  }
}

void power_off() noexcept {
  ::reboot(RB_POWER_OFF);
  ::reboot(RB_AUTOBOOT);
  for (;;) {
    ::pause();
  }
}

} // namespace nixbuild::guest
