#include "sandbox/runner/scratch_disk.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/scratch_room.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

namespace nixbuild::sandbox::runner {

namespace {

constexpr const char* kScratchCode = "sandbox.spawn";
/// Below this the host itself is in trouble, and with every GiB of its own a machine goes earlier.
constexpr std::uint64_t kHostNeeds = 128 * kMiB;
constexpr std::uint64_t kShareOfUsed = 16;

/// No journal and no checksums: after a crash nobody reads it. Inodes for trees of small files;
/// their tables are written as they are used.
constexpr const char* kFeatures = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,large_dir,"
                                  "large_file,huge_file,uninit_bg,dir_nlink,extra_isize,"
                                  "sparse_super2";
constexpr const char* kExtended = "lazy_itable_init=1,nodiscard,root_owner=0:0,num_backup_sb=0";

void make_file_system(const std::string& maker) {
  std::vector<std::string> words{maker,
                                 "-q",
                                 "-F",
                                 "-t",
                                 "ext4",
                                 "-b",
                                 "4096",
                                 "-i",
                                 "8192",
                                 "-I",
                                 "256",
                                 "-m",
                                 "0",
                                 "-O",
                                 kFeatures,
                                 "-E",
                                 kExtended,
                                 kScratchName};
  std::vector<char*> argv;
  for (auto& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  std::array<char*, 1> environment{nullptr};
  pid_t pid = 0;
  if (const int error =
          ::posix_spawn(&pid, maker.c_str(), nullptr, nullptr, argv.data(), environment.data())) {
    throw_system_error(kScratchCode, "starting " + maker, error);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw Error(
        Reaction::Internal,
        kScratchCode,
        fmt::format("{} made no file system for the scratch disk (wait status {})", maker, status));
  }
}

} // namespace

ScratchDisk::ScratchDisk(const std::string& maker, std::uint64_t bytes)
    : file_(system_call(kScratchCode, kScratchName, [] {
        return ::open(kScratchName, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      })) {
  system_call(kScratchCode, kScratchName, [&] {
    return ::ftruncate(file_.get(), static_cast<off_t>(bytes));
  });
  make_file_system(maker);
}

std::optional<std::string> ScratchDisk::host_is_full() const {
  struct statvfs host {};

  struct stat own {};

  if (::fstatvfs(file_.get(), &host) != 0 || ::fstat(file_.get(), &own) != 0) {
    return std::nullopt;
  }
  const auto free = std::uint64_t{host.f_bavail} * host.f_frsize;
  const auto used = static_cast<std::uint64_t>(own.st_blocks) * 512;
  if (!must_make_room(free, used)) {
    return std::nullopt;
  }
  return fmt::format("this host's disk is full: {} MiB are free where the scratch disk lies, which "
                     "has taken {} MiB",
                     free / kMiB,
                     used / kMiB);
}

bool must_make_room(std::uint64_t free_bytes, std::uint64_t used_bytes) noexcept {
  return free_bytes < kHostNeeds + used_bytes / kShareOfUsed;
}

} // namespace nixbuild::sandbox::runner
