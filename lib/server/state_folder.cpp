#include "state_folder.hpp"

#include <nixbuild/base/error.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <thread>

namespace nixbuild::server {

namespace {

constexpr std::array<std::string_view, 15> kOurs = {"boot",
                                                    "daemon.lock",
                                                    "daemon.log",
                                                    "daemon.sock",
                                                    "http-tokens",
                                                    "kernels",
                                                    "keys",
                                                    "logs",
                                                    "metadata.sqlite",
                                                    "run",
                                                    "signing-key.public",
                                                    "signing-key.secret",
                                                    "start.lock",
                                                    "store",
                                                    "synced"};

/// Nothing in it, or something of ours: it is no folder that was meant for others, too.
bool looks_like_ours(int folder) noexcept {
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* stream = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (stream == nullptr) {
    if (copy >= 0) {
      ::close(copy);
    }
    return false;
  }
  bool empty = true;
  bool ours = false;
  while (const auto* entry = ::readdir(stream)) {
    const std::string_view name = static_cast<const char*>(entry->d_name);
    empty = empty && (name == "." || name == "..");
    ours = ours || std::find(kOurs.begin(), kOurs.end(), name) != kOurs.end();
  }
  ::closedir(stream);
  return empty || ours;
}

/// A database that was made under an open umask.
void narrow_file(int folder, const char* name) noexcept {
  const UniqueFd file(::openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));

  struct stat info {};

  if (file && ::fstat(file.get(), &info) == 0 && S_ISREG(info.st_mode) &&
      info.st_uid == ::geteuid() && (info.st_mode & 0077) != 0) {
    ::fchmod(file.get(), 0600);
  }
}

} // namespace

void make_state_folder(const std::string& state_dir) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(state_dir).parent_path(), ignored);
  if (::mkdir(state_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    throw_system_error("state-dir.make", "making the state directory " + state_dir);
  }
}

bool narrow_state_folder(const std::string& state_dir) noexcept {
  const UniqueFd folder(::open(state_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));

  struct stat info {};

  if (!folder || ::fstat(folder.get(), &info) != 0 || info.st_uid != ::geteuid()) {
    return false;
  }
  // Opening a database's file and closing it again drops the locks of a process that has it open:
  // this comes before.
  for (const char* name : {"metadata.sqlite", "metadata.sqlite-wal", "metadata.sqlite-shm"}) {
    narrow_file(folder.get(), name);
  }
  const bool open = (info.st_mode & 0007) != 0 && (info.st_mode & S_ISVTX) == 0;
  if (!open || !looks_like_ours(folder.get())) {
    return false;
  }
  return ::fchmod(folder.get(), info.st_mode & 0700) == 0;
}

UniqueFd lock_state_folder(const std::string& state_dir) {
  const auto name = state_dir + "/daemon.lock";
  UniqueFd lock(system_call("daemon.state-dir", "opening " + name, [&] {
    return ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }));
  // A front that looks whether a daemon is there holds it for a moment.
  constexpr int attempts = 50;
  for (int attempt = 0; ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0; ++attempt) {
    if (attempt == attempts) {
      throw Error(
          Reaction::Busy, "daemon.running", "another daemon serves " + state_dir + " already");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return lock;
}

} // namespace nixbuild::server
