#include "disk_call.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace nixbuild::store {

void write_all(int fd, ByteView bytes, std::string_view what) {
  while (!bytes.empty()) {
    const auto count = disk_call(what, [&] { return ::write(fd, bytes.data(), bytes.size()); });
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void write_all_at(int fd, std::uint64_t offset, ByteView bytes, std::string_view what) {
  while (!bytes.empty()) {
    const auto count = disk_call(
        what, [&] { return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

void read_exactly_at(int fd, std::uint64_t offset, MutableBytes into, std::string_view what) {
  while (!into.empty()) {
    const auto count = disk_call(
        what, [&] { return ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset)); });
    if (count == 0) {
      throw Error(Reaction::Corrupt, "store.io", std::string(what) + ": the file is too short");
    }
    into = into.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

std::uint64_t size_of(int fd, std::string_view what) {
  struct stat status {};

  disk_call(what, [&] { return ::fstat(fd, &status); });
  return static_cast<std::uint64_t>(status.st_size);
}

UniqueFd open_existing(const std::filesystem::path& path) {
  const int fd = disk_call("opening " + path.string(), [&] {
    const int result = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    return result == -1 && errno == ENOENT ? -2 : result;
  });
  return UniqueFd(fd == -2 ? -1 : fd);
}

void sync_directory(const std::filesystem::path& dir) {
  const UniqueFd fd(disk_call("opening " + dir.string(), [&] {
    return ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }));
  disk_call("flushing " + dir.string(), [&] { return ::fsync(fd.get()); });
}

void make_directories(const std::filesystem::path& dir) {
  if (dir.has_parent_path() && dir.parent_path() != dir && !std::filesystem::exists(dir)) {
    make_directories(dir.parent_path());
  }
  disk_call("making " + dir.string(), [&] {
    const int result = ::mkdir(dir.c_str(), 0700);
    return result == -1 && errno == EEXIST ? 0 : result;
  });
}

void unlink_quietly(const std::filesystem::path& path) noexcept {
  ::unlink(path.c_str());
}

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  disk_call("renaming " + from.string() + " to " + to.string(),
            [&] { return std::rename(from.c_str(), to.c_str()); });
}

} // namespace nixbuild::store
