#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// The second wall: QEMU is started in namespaces of its own, with an empty root, without
/// privileges, and with exactly the descriptors of its command line.
namespace nixbuild::sandbox {

struct JailSettings {
  /// Private folder of this build; holds the mount point `root` while QEMU starts.
  std::filesystem::path directory;
  /// User and group of the process. Only root can give one; without it the process stays this user.
  std::optional<uid_t> uid;
  bool kvm = false;            ///< give it /dev/kvm, and the group that may open it
  unsigned threads = 256;      ///< RLIMIT_NPROC, only together with a uid of its own
  unsigned descriptors = 1024; ///< RLIMIT_NOFILE
  std::uint64_t file_bytes = 16 * 1024 * 1024; ///< RLIMIT_FSIZE
  /// Read-only binds of the root beside /usr, /lib*, /bin, /sbin and /nix/store.
  std::vector<std::filesystem::path> extra_binds;
  /// A delegated cgroup v2 folder in which a child is made for the process; empty: none.
  std::filesystem::path cgroup_parent;
  std::string cgroup_name;
  std::uint64_t memory_max = 0; ///< memory.max of that cgroup; 0: no limit
};

/// Which walls stand. Told by `doctor` and in the build's log.
struct JailReport {
  bool namespaces = false;     ///< mount, network, IPC, UTS, PID, and the empty root
  bool user_namespace = false; ///< they were made without root
  bool own_uid = false;        ///< the process runs as a user of its own
  bool cgroup = false;
  std::string shortfall; ///< why something is missing; empty when nothing is
};

/// A process in its jail. Destroying it kills the process and reaps it.
class NIXBUILD_API JailedProcess {
public:
  JailedProcess() = default;
  JailedProcess(pid_t pid, UniqueFd pidfd, JailReport report, std::filesystem::path cgroup);
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
  std::filesystem::path cgroup_;
};

/// Starts `arguments[0]` (an absolute path) in a jail. Standard input is /dev/null, standard output
/// and error are `output`. `keep` are the only other descriptors it gets, under the same numbers.
/// It is killed when the calling thread ends. Every call between clone and exec is
/// async-signal-safe. Errors: `sandbox.spawn`, naming the step that failed.
[[nodiscard]] NIXBUILD_API JailedProcess start_jailed(const JailSettings& settings,
                                                      std::span<const std::string> arguments,
                                                      std::span<const int> keep,
                                                      int output);

} // namespace nixbuild::sandbox
