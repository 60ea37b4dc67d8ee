#pragma once

#include "sandbox/program_files.hpp"

#include <nixbuild/sandbox/jail.hpp>

#include <linux/filter.h>
#include <sys/types.h>

#include <cstdint>
#include <span>
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

/// A file that is handed over: it is opened anew below a read-only copy of the mount it is on.
struct HandedFile {
  int fd = -1;
  std::string folder; ///< empty: it has no name any more, and stays as it is
  std::string name;
  dev_t device = 0;
  ino_t inode = 0;
};

/// Rights of Landlock that not every libc header names.
inline constexpr std::uint64_t kLandExecute = 1ULL << 0;
inline constexpr std::uint64_t kLandDeviceCommand = 1ULL << 15;

/// Landlock: what may be done with a file, or below a folder.
struct LandRule {
  std::string path; ///< empty: the file of `fd`
  int fd = -1;
  std::uint64_t access = 0;
};

struct ChildPlan {
  std::string root; ///< mount point; empty: no namespaces
  std::vector<MountStep> mounts;
  std::vector<HandedFile> files; ///< sorted by folder; empty where mounts cannot be made
  bool change_user = false;
  bool drop_bounds = false; ///< of capabilities
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  unsigned threads = 0; ///< 0: no RLIMIT_NPROC
  unsigned descriptors = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t address_space = 0; ///< 0: no limit
  std::vector<int> keep;
  int input = -1;
  int output = -1;
  int status = -1; ///< socket: "go" comes in, a ChildFailure goes out
  std::vector<char*> argv;
  int land_version = 0; ///< of Landlock's interface; 0: there is none
  std::vector<LandRule> land_rules;
  std::vector<sock_filter> filter;
};

struct ChildFailure {
  char step[48];
  int error;
};

/// The steps that build the root from what this host has.
[[nodiscard]] std::vector<MountStep> mount_steps(const JailSettings& settings,
                                                 const std::vector<SeenFile>& seen,
                                                 const std::string& root);

/// Those of `keep` that are files, no sealed memory, and not the process's own to write, by the
/// names they have now.
[[nodiscard]] std::vector<HandedFile> handed_files(std::span<const int> keep,
                                                   std::span<const int> writable);

/// Whether this kernel can copy a mount and make the copy read-only (from 5.12 on).
[[nodiscard]] bool can_copy_mounts() noexcept;

/// The version of Landlock's interface; 0: this kernel has none.
[[nodiscard]] int landlock_version() noexcept;

/// What the process may do with which files.
[[nodiscard]] std::vector<LandRule> land_rules(const JailSettings& settings,
                                               const std::vector<SeenFile>& seen,
                                               const std::vector<HandedFile>& files);

/// Does all steps and execs; on failure writes a ChildFailure and exits. Async-signal-safe.
[[noreturn]] void run_child(const ChildPlan& plan) noexcept;

} // namespace nixbuild::sandbox::jail
