#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/cgroup.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr std::array<const char*, 3> kControllers{"memory", "cpu", "pids"};
constexpr const char* kLeaf = "daemon";
constexpr std::uint64_t kCpuPeriod = 100'000;

bool write_group_file(const fs::path& file, const std::string& text) noexcept {
  const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

std::set<std::string> words_of(const fs::path& file) {
  std::ifstream stream(file);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// Where the hierarchy is mounted, and which of its groups is the mount's root.
struct Hierarchy {
  fs::path mount;
  std::string root;
};

std::optional<Hierarchy> find_hierarchy(const fs::path& proc) {
  std::ifstream mounts(proc / "self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" - cgroup2 ") == std::string::npos) {
      continue;
    }
    std::istringstream words(line);
    std::string skipped;
    Hierarchy found;
    words >> skipped >> skipped >> skipped >> found.root >> found.mount;
    return found;
  }
  return std::nullopt;
}

std::string group_of_this_process(const fs::path& proc) {
  std::ifstream groups(proc / "self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.starts_with("0::")) {
      return line.substr(3);
    }
  }
  return {};
}

bool may_use(const fs::path& folder) {
  return ::access(folder.c_str(), W_OK | X_OK) == 0 &&
         ::access((folder / "cgroup.procs").c_str(), W_OK) == 0 &&
         ::access((folder / "cgroup.subtree_control").c_str(), W_OK) == 0;
}

CgroupHome without(std::string why) {
  CgroupHome home;
  home.shortfall = "no control group: " + std::move(why);
  return home;
}

/// The folder of this process's group, or why there is none.
CgroupHome find_own(const fs::path& proc) {
  const auto hierarchy = find_hierarchy(proc);
  const auto group = group_of_this_process(proc);
  if (!hierarchy || group.empty()) {
    return without("cgroup v2 is not mounted here");
  }
  std::string below = group;
  if (hierarchy->root != "/" && below.starts_with(hierarchy->root)) {
    below.erase(0, hierarchy->root.size());
  }
  if (below.find("/..") != std::string::npos) {
    return without(group + " is outside of what is mounted here");
  }
  CgroupHome home;
  home.parent = (hierarchy->mount / fs::path(below).relative_path()).lexically_normal();
  if (!home.parent.has_filename()) {
    home.parent = home.parent.parent_path();
  }
  return home;
}

/// The group that machines are to be made in, before anything is changed. `left` is set where this
/// process has to leave it first.
CgroupHome choose_home(std::string_view choice, const fs::path& proc) {
  if (choice == "none") {
    return without("sandbox.cgroup is \"none\"");
  }
  if (choice != "auto") {
    CgroupHome home;
    home.parent = fs::path(choice);
    if (!may_use(home.parent)) {
      return without(fmt::format("{} cannot be used: {}", choice, std::strerror(errno)));
    }
    return home;
  }
  auto home = find_own(proc);
  if (home.parent.empty()) {
    return home;
  }
  // The service manager may have started this in the leaf (DelegateSubgroup=).
  if (home.parent.filename() == kLeaf && may_use(home.parent.parent_path()) &&
      words_of(home.parent.parent_path() / "cgroup.procs").empty()) {
    home.parent = home.parent.parent_path();
    return home;
  }
  if (!may_use(home.parent)) {
    return without(home.parent.string() + " is not delegated to this process");
  }
  std::error_code ignored;
  if (!fs::exists(home.parent / "cgroup.type", ignored)) {
    return home; // the root of all: there processes and controllers may be together
  }
  auto others = words_of(home.parent / "cgroup.procs");
  others.erase(std::to_string(::getpid()));
  if (!others.empty()) {
    return without(fmt::format("{} holds {} processes beside this one, which it is not for",
                               home.parent.string(),
                               others.size()));
  }
  home.left = true;
  return home;
}

/// Which controllers the machines will miss.
void tell_missing(CgroupHome& home) {
  const auto offered = words_of(home.parent / "cgroup.controllers");
  for (const auto* controller : kControllers) {
    if (!offered.contains(controller)) {
      home.shortfall += fmt::format(
          "no limit of {}: {} has no such controller; ", controller, home.parent.string());
    }
  }
}

} // namespace

CgroupHome examine_cgroups(std::string_view choice, const fs::path& proc) {
  auto home = choose_home(choice, proc);
  if (!home.parent.empty()) {
    tell_missing(home);
  }
  return home;
}

CgroupHome prepare_cgroups(std::string_view choice, const fs::path& proc) {
  auto home = choose_home(choice, proc);
  if (home.parent.empty()) {
    return home;
  }
  if (home.left) {
    const auto leaf = home.parent / kLeaf;
    std::error_code error;
    fs::create_directory(leaf, error);
    if (!write_group_file(leaf / "cgroup.procs", std::to_string(::getpid()))) {
      return without(fmt::format("moving to {}: {}", leaf.string(), std::strerror(errno)));
    }
  }
  tell_missing(home);
  const auto offered = words_of(home.parent / "cgroup.controllers");
  const auto control = home.parent / "cgroup.subtree_control";
  for (const auto* controller : kControllers) {
    if (offered.contains(controller) && !words_of(control).contains(controller) &&
        !write_group_file(control, fmt::format("+{}", controller))) {
      home.shortfall += fmt::format("no limit of {}: switching it on in {}: {}; ",
                                    controller,
                                    home.parent.string(),
                                    std::strerror(errno));
    }
  }
  return home;
}

void release_controllers(const fs::path& parent) noexcept {
  try {
    for (const auto* controller : kControllers) {
      write_group_file(parent / "cgroup.subtree_control", fmt::format("-{}", controller));
    }
  } catch (...) {
    // No memory for a file name: then the next daemon is told that it has no group.
  }
}

MachineCgroup::MachineCgroup(fs::path folder, const CgroupLimits& limits)
    : folder_(std::move(folder)), limits_(limits) {
  std::error_code error;
  fs::create_directory(folder_, error);
  if (error) {
    shortfall_ = fmt::format("no control group: {}: {}; ", folder_.string(), error.message());
    folder_.clear();
    return;
  }
  limit();
}

MachineCgroup::~MachineCgroup() {
  remove();
}

MachineCgroup::MachineCgroup(MachineCgroup&& other) noexcept
    : folder_(std::exchange(other.folder_, {})), limits_(other.limits_),
      shortfall_(std::move(other.shortfall_)), limits_memory_(other.limits_memory_) {}

MachineCgroup& MachineCgroup::operator=(MachineCgroup&& other) noexcept {
  if (this != &other) {
    remove();
    folder_ = std::exchange(other.folder_, {});
    limits_ = other.limits_;
    shortfall_ = std::move(other.shortfall_);
    limits_memory_ = other.limits_memory_;
  }
  return *this;
}

bool MachineCgroup::put(const char* file, const std::string& text, const char* what) {
  if (write_group_file(folder_ / file, text)) {
    return true;
  }
  shortfall_ += fmt::format("no limit of {}: {}: {}; ", what, file, std::strerror(errno));
  return false;
}

void MachineCgroup::limit() {
  if (folder_.empty()) {
    return;
  }
  shortfall_.clear();
  if (limits_.memory_bytes != 0) {
    limits_memory_ = put("memory.max", std::to_string(limits_.memory_bytes), "memory");
    // Kernels without swap have no such file; all of a machine ends together.
    std::error_code ignored;
    if (limits_memory_ && fs::exists(folder_ / "memory.swap.max", ignored)) {
      put("memory.swap.max", "0", "swap");
    }
    write_group_file(folder_ / "memory.oom.group", "1");
  }
  if (limits_.cpus != 0) {
    put("cpu.max", fmt::format("{} {}", limits_.cpus * kCpuPeriod, kCpuPeriod), "cpu");
  }
  if (limits_.processes != 0) {
    put("pids.max", std::to_string(limits_.processes), "processes");
  }
}

bool MachineCgroup::add(pid_t process) {
  if (folder_.empty()) {
    return false;
  }
  if (write_group_file(folder_ / "cgroup.procs", std::to_string(process))) {
    return true;
  }
  if (errno == ESRCH) {
    return false; // it has ended already
  }
  shortfall_ = fmt::format("no control group: {}: {}; ", folder_.string(), std::strerror(errno));
  limits_memory_ = false;
  remove();
  return false;
}

bool MachineCgroup::ran_out_of_memory() const {
  std::ifstream events(folder_ / "memory.events");
  std::string name;
  std::uint64_t count = 0;
  while (events >> name >> count) {
    if (name == "oom_kill" && count > 0) {
      return true;
    }
  }
  return false;
}

void MachineCgroup::remove() noexcept {
  if (!folder_.empty()) {
    remove_cgroup(folder_);
    folder_.clear();
  }
}

void remove_cgroup(const fs::path& folder) noexcept {
  constexpr int attempts = 20;
  for (int i = 0; i < attempts; ++i) {
    if (::rmdir(folder.c_str()) == 0 || errno == ENOENT) {
      return;
    }
    if (i == 0) {
      const int kill = ::open((folder / "cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC);
      const UniqueFd fd(kill);
      [[maybe_unused]] const auto told = ::write(fd.get(), "1", 1);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

} // namespace nixbuild::sandbox
