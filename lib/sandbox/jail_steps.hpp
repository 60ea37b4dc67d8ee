#pragma once

#include <nixbuild/sandbox/jail.hpp>

#include <string>
#include <vector>

/// What the child does between clone and exec. All memory is set up before the clone, so that the
/// child only makes system calls.
namespace nixbuild::sandbox::jail {

enum class MountKind { Directory, File, Link, Bind, Device, Proc };

/// One step of building the root, `target` below the mount point.
struct MountStep {
  MountKind kind = MountKind::Directory;
  std::string source;
  std::string target;
  unsigned long flags = 0; ///< of the read-only remount
};

struct ChildPlan {
  std::string root; ///< mount point; empty: no namespaces
  std::vector<MountStep> mounts;
  bool change_user = false;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  unsigned threads = 0; ///< 0: no RLIMIT_NPROC
  unsigned descriptors = 0;
  std::uint64_t file_bytes = 0;
  std::vector<int> keep;
  int input = -1;
  int output = -1;
  int status = -1; ///< socket: "go" comes in, a ChildFailure goes out
  std::vector<char*> argv;
};

struct ChildFailure {
  char step[48];
  int error;
};

/// The steps that build the root from what this host has.
[[nodiscard]] std::vector<MountStep> mount_steps(const JailSettings& settings,
                                                 const std::string& root);

/// Does all steps and execs; on failure writes a ChildFailure and exits. Async-signal-safe.
[[noreturn]] void run_child(const ChildPlan& plan) noexcept;

} // namespace nixbuild::sandbox::jail
