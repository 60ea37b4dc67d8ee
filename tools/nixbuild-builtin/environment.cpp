#include "builtins.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

namespace nixbuild::builtin {

namespace fs = std::filesystem;

namespace {

/// Packages that others want along come behind everything that was asked for.
constexpr int kFirstPropagatedPriority = 1000;
constexpr std::size_t kMaxDepth = 256;

struct Package {
  std::string path;
  bool active = false;
  int priority = 0;

  bool operator<(const Package& other) const {
    return priority != other.priority ? priority < other.priority : path < other.path;
  }
};

/// `(active priority number-of-outputs output…)…`, with blanks between.
std::vector<Package> read_packages(const std::string& text) {
  std::istringstream words(text);
  std::vector<Package> packages;
  std::string active;
  while (words >> active) {
    int priority = 0;
    unsigned outputs = 0;
    if (!(words >> priority >> outputs)) {
      fail("attribute 'derivations' ends within a package");
    }
    for (unsigned i = 0; i < outputs; ++i) {
      std::string path;
      if (!(words >> path)) {
        fail("attribute 'derivations' ends within a package");
      }
      packages.push_back({std::move(path), active != "false", priority});
    }
  }
  std::sort(packages.begin(), packages.end());
  return packages;
}

/// What every package has of its own and a profile has not.
bool left_out(const std::string& path) {
  constexpr std::array<std::string_view, 7> ends{"/propagated-build-inputs",
                                                 "/nix-support",
                                                 "/perllocal.pod",
                                                 "/info/dir",
                                                 "/log",
                                                 "/manifest.nix",
                                                 "/manifest.json"};
  return std::any_of(ends.begin(), ends.end(), [&](auto end) { return path.ends_with(end); });
}

void warn(const std::string& text) {
  fmt::print(stderr, "warning: {}\n", text);
}

class Profile {
public:
  explicit Profile(std::string out) : out_(std::move(out)) { fs::create_directories(out_); }

  void add(const std::vector<Package>& packages) {
    for (const auto& package : packages) {
      if (package.active) {
        add_package(package.path, package.priority);
      }
    }
    int priority = kFirstPropagatedPriority;
    while (!postponed_.empty()) {
      for (const auto& path : std::exchange(postponed_, {})) {
        add_package(path, priority++);
      }
    }
  }

  [[nodiscard]] std::size_t links() const noexcept { return priorities_.size(); }

private:
  void add_package(const std::string& path, int priority) {
    if (!done_.insert(path).second) {
      return;
    }
    merge(path, out_, priority, 0);
    std::ifstream wanted(path + "/nix-support/propagated-user-env-packages");
    std::string other;
    while (wanted >> other) {
      if (!done_.contains(other)) {
        postponed_.insert(other);
      }
    }
  }

  /// Everything in `from` appears in `to`, by a link or, where several have a folder, in one of its
  /// own.
  void merge(const std::string& from, const std::string& to, int priority, std::size_t depth) {
    if (depth > kMaxDepth) {
      fail(fmt::format("'{}' is more than {} folders deep", from, kMaxDepth));
    }
    std::error_code error;
    fs::directory_iterator entries(from, error);
    if (error == std::errc::not_a_directory) {
      warn(fmt::format("not including '{}' in the user environment because it's not a directory",
                       from));
      return;
    }
    if (error) {
      fail(fmt::format("cannot read the folder '{}': {}", from, error.message()));
    }
    for (const auto& entry : entries) {
      const auto name = entry.path().filename().string();
      if (!name.starts_with('.')) {
        merge_entry(from + "/" + name, to + "/" + name, priority, depth);
      }
    }
  }

  void
  merge_entry(const std::string& from, const std::string& to, int priority, std::size_t depth) {
    struct stat source {};

    if (::stat(from.c_str(), &source) != 0) {
      warn(fmt::format("skipping dangling symlink '{}'", to));
      return;
    }
    if (left_out(from)) {
      return;
    }

    struct stat present {};

    const bool taken = ::lstat(to.c_str(), &present) == 0;
    if (!S_ISDIR(source.st_mode)) {
      place_file(from, to, priority, taken ? &present : nullptr);
    } else if (!taken) {
      link(from, to, priority);
    } else if (S_ISDIR(present.st_mode)) {
      merge(from, to, priority, depth + 1);
    } else {
      open_folder(from, to, depth);
      merge(from, to, priority, depth + 1);
    }
  }

  void place_file(const std::string& from,
                  const std::string& to,
                  int priority,
                  const struct stat* present) {
    if (present != nullptr && S_ISDIR(present->st_mode)) {
      fail(fmt::format("collision between non-directory '{}' and directory '{}'", from, to));
    }
    if (present != nullptr) {
      const int before = priorities_.at(to);
      if (before == priority) {
        fail(fmt::format("files '{}' and '{}' have the same priority {}; 'nix-env --set-flag "
                         "priority NUMBER PACKAGE' changes the one of an installed package (0 is "
                         "the highest)",
                         fs::read_symlink(to).string(),
                         from,
                         priority));
      }
      if (before < priority) {
        return;
      }
      fs::remove(to);
    }
    link(from, to, priority);
  }

  /// A folder that was one package's alone gets a second one's entries.
  void open_folder(const std::string& from, const std::string& to, std::size_t depth) {
    const auto target = fs::canonical(to);
    if (!fs::is_directory(target)) {
      fail(fmt::format("collision between '{}' and non-directory '{}'", from, target.string()));
    }
    const int before = priorities_.at(to);
    fs::remove(to);
    fs::create_directory(to);
    merge(target.string(), to, before, depth + 1);
  }

  void link(const std::string& from, const std::string& to, int priority) {
    fs::create_symlink(from, to);
    priorities_[to] = priority;
  }

  std::string out_;
  std::set<std::string> done_;
  std::set<std::string> postponed_;
  std::map<std::string, int> priorities_; ///< of every link
};

} // namespace

void build_environment(const Call& call) {
  const auto& out = call.attribute("out");
  Profile profile(out);
  profile.add(read_packages(call.attribute("derivations")));
  fmt::print(stderr, "created {} symlinks in user environment\n", profile.links());
  fs::create_symlink(call.attribute("manifest"), out + "/manifest.nix");
}

} // namespace nixbuild::builtin
