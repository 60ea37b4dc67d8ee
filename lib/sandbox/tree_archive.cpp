#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

namespace nixbuild::sandbox {

namespace {

constexpr const char* kRead = "archive.read";
constexpr const char* kWrite = "unpack.write";
constexpr std::size_t kPiece = 512 * kKiB;
constexpr std::size_t kTargetRoom = 8192;

struct CloseDirectory {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};

using Directory = std::unique_ptr<DIR, CloseDirectory>;

class Archiver {
public:
  Archiver(nar::EventSink& sink, const ArchiveOptions& options, std::string_view name)
      : sink_(sink), options_(options), path_(options.shown_as.empty() ? name : options.shown_as),
        buffer_(kPiece) {}

  void node(int parent, const std::string& name, std::size_t level) {
    struct stat info {};

    system_call(
        kRead, path_, [&] { return ::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW); });
    if (++nodes_ > options_.limits.entries) {
      fail("nar.limit", fmt::format("more than {} nodes", options_.limits.entries));
    }
    if (options_.owner && info.st_uid != *options_.owner) {
      fail("archive.owner",
           fmt::format("is owned by user {} instead of {}", info.st_uid, *options_.owner));
    }
    if (S_ISREG(info.st_mode)) {
      regular(open_node(parent, name, O_NONBLOCK, info), info);
    } else if (S_ISDIR(info.st_mode)) {
      directory(open_node(parent, name, O_DIRECTORY, info), level + 1);
    } else if (S_ISLNK(info.st_mode)) {
      symlink(parent, name);
    } else {
      throw Error(Reaction::Unsupported,
                  "archive.type",
                  fmt::format("file '{}' has an unsupported type", path_));
    }
  }

private:
  [[noreturn]] void fail(std::string_view code, std::string_view what) const {
    throw Error(Reaction::Reject, code, fmt::format("file '{}': {}", path_, what));
  }

  /// The node that was looked at, not one that took its name in between.
  UniqueFd
  open_node(int parent, const std::string& name, int flags, const struct stat& seen) const {
    UniqueFd fd(system_call(kRead, path_, [&] {
      return ::openat(parent, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags);
    }));

    struct stat opened {};

    system_call(kRead, path_, [&] { return ::fstat(fd.get(), &opened); });
    if (opened.st_ino != seen.st_ino || opened.st_dev != seen.st_dev ||
        (opened.st_mode & S_IFMT) != (seen.st_mode & S_IFMT)) {
      fail("archive.changed", "was replaced while being read");
    }
    return fd;
  }

  void regular(const UniqueFd& fd, const struct stat& info) {
    auto left = static_cast<std::uint64_t>(info.st_size);
    sink_.regular((info.st_mode & S_IXUSR) != 0, left);
    while (left > 0) {
      const auto want = std::min<std::uint64_t>(left, buffer_.size());
      const auto got =
          system_call(kRead, path_, [&] { return ::read(fd.get(), buffer_.data(), want); });
      if (got == 0) {
        fail("archive.changed", fmt::format("shrank by {} bytes while being read", left));
      }
      const auto size = static_cast<std::size_t>(got);
      sink_.contents(ByteView(buffer_.data(), size));
      left -= size;
    }
    sink_.regular_end();
  }

  void symlink(int parent, const std::string& name) {
    std::array<char, kTargetRoom> target{};
    const auto size = static_cast<std::size_t>(system_call(kRead, path_, [&] {
      return ::readlinkat(parent, name.c_str(), target.data(), target.size());
    }));
    if (size > options_.limits.target_bytes) {
      fail("nar.target",
           fmt::format("target of {} bytes exceeds {}", size, options_.limits.target_bytes));
    }
    sink_.symlink(std::string_view(target.data(), size));
  }

  void directory(UniqueFd fd, std::size_t level) {
    if (level > options_.limits.depth) {
      fail("nar.depth", fmt::format("deeper than {} levels", options_.limits.depth));
    }
    const Directory stream(::fdopendir(fd.get()));
    if (!stream) {
      throw_system_error(kRead, path_);
    }
    const int here = fd.release(); // the stream closes it
    const auto names = names_in(stream.get());
    sink_.directory();
    const auto length = path_.size();
    for (const auto& name : names) {
      path_.append("/").append(name);
      sink_.entry(name);
      node(here, name, level);
      path_.resize(length);
    }
    sink_.directory_end();
  }

  std::vector<std::string> names_in(DIR* stream) const {
    std::vector<std::string> names;
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(stream);
      if (entry == nullptr) {
        break;
      }
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") {
        continue;
      }
      if (!nar::valid_name(name) || name.size() > options_.limits.name_bytes) {
        fail("nar.name", fmt::format("entry '{}' has no valid name", name));
      }
      if (names.size() >= options_.limits.entries) {
        fail("nar.limit", fmt::format("more than {} entries", options_.limits.entries));
      }
      names.emplace_back(name);
    }
    if (errno != 0) {
      throw_system_error(kRead, path_);
    }
    // std::string compares as unsigned bytes, which is the archive's order.
    std::sort(names.begin(), names.end());
    return names;
  }

  nar::EventSink& sink_;
  const ArchiveOptions& options_;
  std::string path_;
  std::uint64_t nodes_ = 0;
  Bytes buffer_;
};

} // namespace

void archive_tree(int parent,
                  std::string_view name,
                  nar::EventSink& sink,
                  const ArchiveOptions& options) {
  Archiver(sink, options, name).node(parent, std::string(name), 0);
}

struct TreeUnpacker::State {
  State(int parent_fd, std::string root_name, bool make_read_only)
      : parent(parent_fd), name(std::move(root_name)), read_only(make_read_only) {}

  /// Directory that gets the next node; its name must have been told.
  int place() {
    if (!named || file) {
      throw Error(Reaction::Reject, "unpack.events", "a node out of place");
    }
    named = false;
    return open.empty() ? parent : open.back().get();
  }

  void expect_file() const {
    if (!file) {
      throw Error(Reaction::Reject, "unpack.events", "contents out of place");
    }
  }

  void expect_directory() const {
    if (open.empty() || named || file) {
      throw Error(Reaction::Reject, "unpack.events", "an entry out of place");
    }
  }

  /// Like system_call, but what exists already is its own error.
  template <class Call>
  int create(Call&& call) {
    for (;;) {
      const int result = call();
      if (result >= 0) {
        return result;
      }
      if (errno == EEXIST) {
        throw Error(Reaction::Reject, "unpack.exists", fmt::format("'{}' exists already", name));
      }
      if (errno != EINTR) {
        throw_system_error(kWrite, name);
      }
    }
  }

  int parent;
  std::string name; ///< of the node that comes next
  bool read_only;
  bool named = true;
  std::vector<UniqueFd> open;
  UniqueFd file;
};

TreeUnpacker::TreeUnpacker(int parent, std::string name, bool read_only)
    : state_(std::make_unique<State>(parent, std::move(name), read_only)) {}

TreeUnpacker::~TreeUnpacker() = default;

void TreeUnpacker::regular(bool executable, std::uint64_t) {
  const int at = state_->place();
  const mode_t open_mode = state_->read_only ? 0444 : 0666;
  const mode_t mode = executable ? open_mode | 0111 : open_mode;
  state_->file = UniqueFd(state_->create([&] {
    return ::openat(
        at, state_->name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  }));
}

void TreeUnpacker::contents(ByteView bytes) {
  state_->expect_file();
  while (!bytes.empty()) {
    const auto put = system_call(kWrite, state_->name, [&] {
      return ::write(state_->file.get(), bytes.data(), bytes.size());
    });
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

namespace {

/// The modification time of everything in a store.
constexpr timespec kStoreTimes[2]{{1, 0}, {1, 0}};

} // namespace

void TreeUnpacker::regular_end() {
  state_->expect_file();
  if (state_->read_only) {
    system_call(kWrite, state_->name, [&] { return ::futimens(state_->file.get(), kStoreTimes); });
  }
  state_->file.reset();
}

void TreeUnpacker::symlink(std::string_view target) {
  const int at = state_->place();
  const std::string text(target);
  state_->create([&] { return ::symlinkat(text.c_str(), at, state_->name.c_str()); });
  if (state_->read_only) {
    system_call(kWrite, state_->name, [&] {
      return ::utimensat(at, state_->name.c_str(), kStoreTimes, AT_SYMLINK_NOFOLLOW);
    });
  }
}

void TreeUnpacker::directory() {
  const int at = state_->place();
  const mode_t mode = state_->read_only ? 0755 : 0777;
  state_->create([&] { return ::mkdirat(at, state_->name.c_str(), mode); });
  state_->open.emplace_back(system_call(kWrite, state_->name, [&] {
    return ::openat(at, state_->name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  }));
}

void TreeUnpacker::entry(std::string_view name) {
  state_->expect_directory();
  if (!nar::valid_name(name)) {
    throw Error(Reaction::Reject, "unpack.events", fmt::format("'{}' is no file name", name));
  }
  state_->name = name;
  state_->named = true;
}

void TreeUnpacker::directory_end() {
  state_->expect_directory();
  if (state_->read_only) {
    const int folder = state_->open.back().get();
    system_call(kWrite, state_->name, [&] { return ::fchmod(folder, 0555); });
    system_call(kWrite, state_->name, [&] { return ::futimens(folder, kStoreTimes); });
  }
  state_->open.pop_back();
}

} // namespace nixbuild::sandbox
