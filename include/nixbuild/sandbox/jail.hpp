#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/cgroup.hpp>

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// The second wall: QEMU is started in namespaces of its own, with a root in which only its own
/// files are, without privileges, with few system calls, and with exactly the descriptors of its
/// command line, of which those of files lead to read-only mounts.
namespace nixbuild::sandbox {

struct JailSettings {
  /// Private folder of this build; holds the mount point `root` while QEMU starts.
  std::filesystem::path directory;
  /// User and group of the process. Only root can give one; without it the process stays this user.
  std::optional<uid_t> uid;
  bool kvm = false;                            ///< give it /dev/kvm, and the group that may open it
  unsigned threads = 256;                      ///< RLIMIT_NPROC, where it counts this process alone
  unsigned descriptors = 1024;                 ///< RLIMIT_NOFILE
  std::uint64_t file_bytes = 16 * 1024 * 1024; ///< RLIMIT_FSIZE
  /// What of the host it sees, from `program_files`; empty: what the program needs, looked for now.
  std::string files;
  std::uint64_t address_space = 0; ///< RLIMIT_AS; 0: none
  /// Of the files that are handed over, those that are the process's own and no other's: they stay
  /// open for writing, and cannot be opened anew.
  std::vector<int> writable;
  MachineCgroup* cgroup = nullptr; ///< where the process is put; outlives it
};

/// Which walls stand. Told by the daemon's log, its metrics, and `doctor`.
struct JailReport {
  bool namespaces = false;     ///< mount, network, IPC, UTS, PID, and the empty root
  bool user_namespace = false; ///< they were made without root
  bool own_uid = false;        ///< the process runs as a user of its own
  bool cgroup = false;
  bool read_only = false; ///< files that were handed over cannot be opened for writing either
  bool landlock = false;
  bool syscalls = false; ///< a filter of system calls
  std::string shortfall; ///< why something is missing; empty when nothing is
};

/// The walls that stand, in words with commas between.
[[nodiscard]] NIXBUILD_API std::string walls_of(const JailReport& report);

/// A process in its jail. Destroying it kills the process and reaps it.
class NIXBUILD_API JailedProcess {
public:
  JailedProcess() = default;
  JailedProcess(pid_t pid, UniqueFd pidfd, JailReport report);
  ~JailedProcess();
  JailedProcess(JailedProcess&& other) noexcept;
  JailedProcess& operator=(JailedProcess&& other) noexcept;

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }

  /// Becomes readable when the process has ended.
  [[nodiscard]] int pidfd() const noexcept { return pidfd_.get(); }

  [[nodiscard]] const JailReport& report() const noexcept { return report_; }

  void kill() noexcept;

  struct Usage {
    int wait_status = 0;
    std::uint64_t peak_rss_bytes = 0;
    std::uint64_t cpu_user_us = 0;
    std::uint64_t cpu_system_us = 0;
  };

  /// Waits for the end of the process. Once.
  Usage reap() noexcept;

private:
  void destroy() noexcept;

  pid_t pid_ = -1;
  UniqueFd pidfd_;
  JailReport report_;
};

/// What a program needs of the host to run in a jail: `JailSettings::files`. Asks the program's
/// loader (some ms), so that who starts it often does it once. Errors: `sandbox.spawn`.
[[nodiscard]] NIXBUILD_API std::string program_files(const std::filesystem::path& program);

/// Starts `arguments[0]` (an absolute path) in a jail. Standard input is /dev/null, standard output
/// and error are `output`. `keep` are the only other descriptors it gets, under the same numbers;
/// files among them are opened anew, for reading, by the names they have now, on read-only mounts.
/// One without a name stays as it is: Landlock and its owner's permissions keep it from being
/// written. The process is killed when the calling thread ends. Every call between clone and exec
/// is async-signal-safe. Errors: `sandbox.spawn`, naming the step that failed.
[[nodiscard]] NIXBUILD_API JailedProcess start_jailed(const JailSettings& settings,
                                                      std::span<const std::string> arguments,
                                                      std::span<const int> keep,
                                                      int output);

} // namespace nixbuild::sandbox
