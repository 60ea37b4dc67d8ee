#include "supervise.hpp"

#include "build_root.hpp"
#include "files.hpp"
#include "machine.hpp"

#include <nixbuild/base/error.hpp>

#include <poll.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>

namespace nixbuild::guest {

namespace {

constexpr std::size_t kLogPiece = 128 * kKiB;
/// A terminal hands out at most this much at once.
constexpr std::size_t kTerminalPiece = 4096;
constexpr int kSampleMilliseconds = 200;
/// Less than this is a full disk, as for Nix.
constexpr std::uint64_t kDiskReserve = 8 * kMiB;
constexpr std::uint64_t kFilesReserve = 16;
/// Less than such a part of /dev/shm is a full one.
constexpr std::uint64_t kSharedReserve = 64;

/// The number after `name` at the beginning of a line; 0 when there is none.
std::uint64_t number_in(const std::string& text, std::string_view name) {
  std::size_t at = 0;
  while (at < text.size()) {
    const auto end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    if (line.size() > name.size() && line.starts_with(name)) {
      line.remove_prefix(name.size());
      line.remove_prefix(std::min(line.find_first_of("0123456789"), line.size()));
      std::uint64_t value = 0;
      std::from_chars(line.data(), line.data() + line.size(), value);
      return value;
    }
  }
  return 0;
}

std::uint64_t out_of_memory_kills() {
  return number_in(read_file("/proc/vmstat"), "oom_kill ");
}

/// Memory that cannot be given back without a loss: page cache of files does not count, what a
/// build has written to the scratch memory does. That is what a machine has to be sized for.
class MemoryWatch {
public:
  MemoryWatch() : before_(available()) {}

  void sample() { least_ = std::min(least_, available()); }

  [[nodiscard]] std::uint64_t peak_bytes() const {
    return least_ < before_ ? (before_ - least_) * kKiB : 0;
  }

private:
  static std::uint64_t available() {
    return number_in(read_file("/proc/meminfo"), "MemAvailable:");
  }

  std::uint64_t before_;
  std::uint64_t least_ = before_;
};

/// Shared memory that is full has no kernel that kills anybody: a write fails, or a touch of a page
/// ends in SIGBUS.
class SharedMemoryWatch {
public:
  explicit SharedMemoryWatch(std::string path) : path_(std::move(path)) {}

  void sample() {
    struct statvfs room {};

    full_ = full_ || (::statvfs(path_.c_str(), &room) == 0 && room.f_blocks > 0 &&
                      (room.f_bavail < room.f_blocks / kSharedReserve || room.f_favail == 0));
  }

  [[nodiscard]] bool was_full() const noexcept { return full_; }

private:
  std::string path_;
  bool full_ = false;
};

class LogPump {
public:
  LogPump(int terminal, int log) : terminal_(terminal), log_(log), piece_(kLogPiece) {}

  /// All that the terminal holds now; false at its end. Blocks while the host does not read.
  bool move() {
    for (;;) {
      const auto got = ::read(terminal_, piece_.data() + filled_, kTerminalPiece);
      if (got > 0) {
        filled_ += static_cast<std::size_t>(got);
        if (filled_ + kTerminalPiece <= piece_.size()) {
          continue;
        }
        flush();
        return true;
      }
      if (got < 0 && errno == EINTR) {
        continue;
      }
      flush();
      // EIO: no process has it open any more.
      return got < 0 && errno == EAGAIN;
    }
  }

  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }

private:
  void flush() {
    const int saved = errno;
    write_all(log_, ByteView(piece_.data(), filled_));
    total_ += filled_;
    filled_ = 0;
    errno = saved;
  }

  int terminal_;
  int log_;
  Bytes piece_;
  std::size_t filled_ = 0;
  std::uint64_t total_ = 0;
};

std::chrono::microseconds time_of(const timeval& value) {
  return std::chrono::seconds(value.tv_sec) + std::chrono::microseconds(value.tv_usec);
}

void check_host(HostLink& host) {
  while (const auto message = host.poll()) {
    if (std::holds_alternative<sandbox::guest::PowerOff>(*message)) {
      power_off();
    }
    throw Error(
        Reaction::Internal, "guest.host", "the host asked for something while a build runs");
  }
}

/// Before anything is tidied away.
void look_at_disk(sandbox::GuestExit& exit) {
  struct statvfs disk {};

  if (::statvfs(kScratch, &disk) != 0) {
    return;
  }
  exit.disk_bytes = (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
  exit.scratch_bytes = disk.f_blocks * disk.f_frsize;
  exit.scratch_in_memory = scratch_in_memory();
  exit.disk_full = disk.f_bavail * disk.f_frsize < kDiskReserve || disk.f_favail < kFilesReserve;
}

/// The builder's end, and with it that of its PID namespace.
sandbox::GuestExit reap(pid_t pid, std::uint64_t kills_before) {
  // It may only have closed its terminal.
  ::kill(pid, SIGKILL);
  int status = 0;
  rusage usage{};
  system_call(kCode, "waiting for the builder", [&] { return ::wait4(pid, &status, 0, &usage); });
  sandbox::GuestExit exit;
  exit.end = WIFSIGNALED(status) ? sandbox::GuestEnd::Signalled : sandbox::GuestEnd::Exited;
  exit.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  const auto kills = out_of_memory_kills() - kills_before;
  if (kills > 0 && status != 0) {
    exit.end = sandbox::GuestEnd::OutOfMemory;
    exit.message = "out of memory: the guest kernel killed " + std::to_string(kills) +
                   (kills == 1 ? " process" : " processes");
  }
  // The group counts processes that nobody waited for, too.
  const auto counted = read_file("/cgroup/build/cpu.stat");
  const std::chrono::microseconds user(number_in(counted, "user_usec "));
  const std::chrono::microseconds system(number_in(counted, "system_usec "));
  exit.cpu_user = std::max(time_of(usage.ru_utime), user);
  exit.cpu_system = std::max(time_of(usage.ru_stime), system);
  exit.peak_memory_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * kKiB;
  look_at_disk(exit);
  return exit;
}

} // namespace

sandbox::GuestExit supervise(Builder builder, const std::string& root, int log, HostLink& host) {
  const auto kills = out_of_memory_kills();
  const auto start = time_since_boot();
  MemoryWatch memory;
  SharedMemoryWatch shared(shared_memory_in(root));
  auto next_sample = start;
  LogPump pump(builder.terminal.get(), log);
  for (;;) {
    pollfd entries[] = {{builder.terminal.get(), POLLIN, 0}, {host.fd(), POLLIN, 0}};
    if (::poll(entries, 2, kSampleMilliseconds) < 0 && errno != EINTR) {
      throw_system_error(kCode, "poll");
    }
    if (entries[1].revents != 0) {
      check_host(host);
    }
    if (const auto now = time_since_boot(); now >= next_sample) {
      memory.sample();
      shared.sample();
      next_sample = now + std::chrono::milliseconds(kSampleMilliseconds);
    }
    if (entries[0].revents != 0 && !pump.move()) {
      break;
    }
  }
  memory.sample();
  shared.sample();
  auto exit = reap(builder.pid, kills);
  if (shared.was_full() && exit.code != 0 && exit.end != sandbox::GuestEnd::OutOfMemory) {
    exit.end = sandbox::GuestEnd::OutOfMemory;
    exit.message = "out of memory: /dev/shm, which has half of it, was full";
  }
  exit.builder_time = time_since_boot() - start;
  exit.peak_memory_bytes = std::max(exit.peak_memory_bytes, memory.peak_bytes());
  exit.log_bytes = pump.total();
  return exit;
}

} // namespace nixbuild::guest
