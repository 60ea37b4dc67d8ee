#include "sandbox/jail_steps.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/landlock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

namespace nixbuild::sandbox::jail {

namespace fs = std::filesystem;

namespace {

constexpr unsigned long kNoDevices = MS_NODEV;
constexpr unsigned long kBindFlags = MS_NOSUID | kNoDevices;

/// A bind inside a user namespace may not lose the flags that its source was mounted with.
unsigned long inherited_flags(const fs::path& source) {
  struct statvfs status {};

  if (::statvfs(source.c_str(), &status) != 0) {
    return 0;
  }
  unsigned long flags = 0;
  const auto take = [&](unsigned long have, unsigned long want) {
    if ((status.f_flag & have) != 0) {
      flags |= want;
    }
  };
  take(ST_NOSUID, MS_NOSUID);
  take(ST_NODEV, MS_NODEV);
  take(ST_NOEXEC, MS_NOEXEC);
  take(ST_NOATIME, MS_NOATIME);
  take(ST_NODIRATIME, MS_NODIRATIME);
  take(ST_RELATIME, MS_RELATIME);
  return flags;
}

/// Puts the root together: what has been made already, and what lies in a bind.
class RootPlan {
public:
  explicit RootPlan(std::string root) : root_(std::move(root)) {}

  /// A path of the host with everything that leads to it, links included.
  void show(const fs::path& path) {
    fs::path way = path.lexically_normal();
    for (int links = 0; links < kMostLinks; ++links) {
      const auto target = walk(way);
      if (!target) {
        return;
      }
      way = *target;
    }
  }

  std::vector<MountStep> steps;

private:
  static constexpr int kMostLinks = 40;

  /// One way down to a file, or to where a link on it leads.
  std::optional<fs::path> walk(const fs::path& way) {
    fs::path here = "/";
    const auto parts = way.relative_path();
    for (auto part = parts.begin(); part != parts.end(); ++part) {
      here /= *part;
      if (bound_.contains(here)) {
        return std::nullopt; // and all below it
      }
      std::error_code error;
      const auto status = fs::symlink_status(here, error);
      if (error || status.type() == fs::file_type::not_found) {
        return std::nullopt;
      }
      if (status.type() == fs::file_type::symlink) {
        const auto link = fs::read_symlink(here, error);
        make({MountKind::Link, link.string(), root_ + here.string(), 0});
        fs::path rest;
        for (auto left = std::next(part); left != parts.end(); ++left) {
          rest /= *left;
        }
        auto target = link.is_absolute() ? link : here.parent_path() / link;
        return (rest.empty() ? target : target / rest).lexically_normal();
      }
      const bool folder = status.type() == fs::file_type::directory;
      make({folder ? MountKind::Directory : MountKind::File, {}, root_ + here.string(), 0});
    }
    bound_.insert(here);
    steps.push_back({MountKind::Bind,
                     here.string(),
                     root_ + here.string(),
                     kBindFlags | inherited_flags(here)});
    return std::nullopt;
  }

  void make(MountStep step) {
    if (made_.insert(step.target).second) {
      steps.push_back(std::move(step));
    }
  }

  std::string root_;
  std::set<std::string> made_;
  std::set<fs::path> bound_;
};

} // namespace

std::vector<MountStep> mount_steps(const JailSettings& settings,
                                   const std::vector<SeenFile>& seen,
                                   const std::string& root) {
  RootPlan plan(root);
  // Folders first: what lies in one of them needs no bind of its own.
  for (const bool folders : {true, false}) {
    for (const auto& file : seen) {
      std::error_code ignored;
      if (fs::is_directory(file.path, ignored) == folders) {
        plan.show(file.path);
      }
    }
  }
  auto steps = std::move(plan.steps);
  steps.push_back({MountKind::Directory, {}, root + "/dev", 0});
  std::vector<std::string> devices{"/dev/null", "/dev/urandom"};
  if (settings.kvm) {
    devices.emplace_back("/dev/kvm");
  }
  for (const auto& device : devices) {
    steps.push_back({MountKind::File, {}, root + device, 0});
    steps.push_back({MountKind::Device,
                     device,
                     root + device,
                     MS_NOSUID | MS_NOEXEC | (inherited_flags(device) & ~kNoDevices)});
  }
  steps.push_back({MountKind::Directory, {}, root + "/proc", 0});
  steps.push_back({MountKind::Proc, {}, root + "/proc", 0});
  return steps;
}

std::vector<HandedFile> handed_files(std::span<const int> keep, std::span<const int> writable) {
  std::vector<HandedFile> files;
  for (const int fd : keep) {
    if (std::find(writable.begin(), writable.end(), fd) != writable.end()) {
      continue; // opened anew it could not be written
    }

    struct stat status {};

    if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
      continue; // a socket
    }
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_WRITE) != 0) {
      continue;
    }
    HandedFile file{fd, {}, {}, status.st_dev, status.st_ino};
    if (status.st_nlink > 0) {
      std::error_code error;
      const auto path = fs::read_symlink(fmt::format("/proc/self/fd/{}", fd), error);
      file.folder = path.parent_path().string();
      file.name = path.filename().string();
    }
    files.push_back(std::move(file));
  }
  std::stable_sort(files.begin(), files.end(), [](const HandedFile& a, const HandedFile& b) {
    return a.folder < b.folder;
  });
  return files;
}

bool can_copy_mounts() noexcept {
  return ::syscall(SYS_mount_setattr, -1, "", 0, nullptr, 0) == 0 || errno != ENOSYS;
}

int landlock_version() noexcept {
  const auto version =
      ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return version < 0 ? 0 : static_cast<int>(version);
}

std::vector<LandRule> land_rules(const JailSettings& settings,
                                 const std::vector<SeenFile>& seen,
                                 const std::vector<HandedFile>& files) {
  constexpr std::uint64_t read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
  std::vector<LandRule> rules;
  for (const auto& file : seen) {
    rules.push_back({file.path.string(), -1, file.execute ? read | kLandExecute : read});
  }
  rules.push_back({"/proc", -1, read});
  const auto device = read | LANDLOCK_ACCESS_FS_WRITE_FILE | kLandDeviceCommand;
  rules.push_back({"/dev/null", -1, device});
  rules.push_back({"/dev/urandom", -1, read});
  if (settings.kvm) {
    rules.push_back({"/dev/kvm", -1, device});
  }
  // A kernel is read through /proc/self/fd.
  for (const auto& file : files) {
    rules.push_back({{}, file.fd, read});
  }
  return rules;
}

} // namespace nixbuild::sandbox::jail
