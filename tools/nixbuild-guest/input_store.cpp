#include "input_store.hpp"

#include "files.hpp"
#include "machine.hpp"

#include <nixbuild/base/error.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>

namespace nixbuild::guest {

namespace {

constexpr const char* kInputs = "/inputs";
/// What every path of a store has.
constexpr timespec kInputTime{1, 0};

struct CloseFolder {
  void operator()(DIR* folder) const noexcept { ::closedir(folder); }
};

/// Each input's name, and its type (DT_DIR, DT_REG, DT_LNK).
void for_each_input(const std::string& lower,
                    const std::function<void(const std::string&, unsigned char)>& take) {
  const std::unique_ptr<DIR, CloseFolder> folder(::opendir(lower.c_str()));
  if (!folder) {
    throw Error(Reaction::Internal, "guest.inputs", "the inputs' disk has no " + lower);
  }
  errno = 0;
  while (const auto* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") {
      take(name, entry->d_type);
    }
    errno = 0;
  }
  if (errno != 0) {
    throw_system_error(kCode, lower);
  }
}

/// Links cannot be mounted on: they are made again.
void copy_link(const std::string& from, const std::string& to) {
  std::array<char, PATH_MAX> target{};
  system_call(
      kCode, from, [&] { return ::readlink(from.c_str(), target.data(), target.size() - 1); });
  system_call(kCode, to, [&] { return ::symlink(target.data(), to.c_str()); });
  const std::array<timespec, 2> times{kInputTime, kInputTime};
  system_call(kCode, to, [&] {
    return ::utimensat(AT_FDCWD, to.c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
  });
}

} // namespace

void mount_inputs() {
  const auto disk = find_disk("inputs");
  if (disk.empty()) {
    throw Error(Reaction::Internal, "guest.inputs", "no disk with the serial number 'inputs'");
  }
  make_folder(kInputs, 0755);
  mount_at(disk.c_str(), kInputs, "erofs", MS_RDONLY | MS_NOSUID | MS_NODEV);
}

void make_store(const std::string& store, const sandbox::GuestJob& job) {
  make_folders(store.substr(0, store.find_last_of('/')));
  make_folder(store, S_ISVTX | 0775, 0, job.gid);
  const auto lower = kInputs + job.store_dir;
  for_each_input(lower, [&](const std::string& name, unsigned char type) {
    const auto place = store + "/" + name;
    if (type == DT_LNK) {
      copy_link(lower + "/" + name, place);
    } else if (type == DT_DIR) {
      system_call(kCode, place, [&] { return ::mkdir(place.c_str(), 0555); });
    } else {
      write_file(place, {}, 0444);
    }
  });
}

void bind_inputs(const std::string& store, const sandbox::GuestJob& job) {
  const auto lower = kInputs + job.store_dir;
  for_each_input(lower, [&](const std::string& name, unsigned char type) {
    if (type != DT_LNK) {
      mount_at((lower + "/" + name).c_str(), store + "/" + name, nullptr, MS_BIND);
    }
  });
}

} // namespace nixbuild::guest
