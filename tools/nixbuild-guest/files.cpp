#include "files.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

namespace nixbuild::guest {

namespace {

constexpr std::size_t kMaxFile = 1 * kMiB;

} // namespace

std::string read_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string contents;
  std::array<char, 4096> piece{};
  while (fd && contents.size() < kMaxFile) {
    const auto got = ::read(fd.get(), piece.data(), piece.size());
    if (got <= 0) {
      break;
    }
    contents.append(piece.data(), static_cast<std::size_t>(got));
  }
  return contents;
}

void write_file(const std::string& path, std::string_view contents, mode_t mode) {
  const UniqueFd fd(system_call(kCode, path, [&] {
    return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  }));
  write_all(fd.get(), bytes_of(contents));
  system_call(kCode, path, [&] { return ::fchmod(fd.get(), mode); });
}

bool write_kernel_file(const std::string& path, std::string_view contents) noexcept {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), contents.data(), contents.size()) ==
                   static_cast<ssize_t>(contents.size());
}

void make_folder(const std::string& path, mode_t mode, uid_t owner, gid_t group) {
  system_call(kCode, path, [&] { return ::mkdir(path.c_str(), 0700); });
  system_call(kCode, path, [&] { return ::chown(path.c_str(), owner, group); });
  system_call(kCode, path, [&] { return ::chmod(path.c_str(), mode); });
}

void make_folders(const std::string& path) {
  struct stat info {};

  if (path.empty() || ::stat(path.c_str(), &info) == 0) {
    return;
  }
  make_folders(path.substr(0, path.find_last_of('/')));
  make_folder(path, 0755);
}

void mount_at(const char* source,
              const std::string& target,
              const char* type,
              unsigned long flags,
              const std::string& options) {
  const auto what =
      std::string("mounting ") + (type == nullptr ? "" : type) + " on '" + target + "'";
  system_call(kCode, what, [&] {
    return ::mount(
        source, target.c_str(), type, flags, options.empty() ? nullptr : options.c_str());
  });
}

void write_all(int fd, ByteView bytes) {
  while (!bytes.empty()) {
    const auto put =
        system_call(kCode, "writing", [&] { return ::write(fd, bytes.data(), bytes.size()); });
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

} // namespace nixbuild::guest
