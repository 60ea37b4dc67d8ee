#include "sandbox/guarded_file.hpp"

#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace nixbuild::sandbox {

namespace {

constexpr const char* kGuardCode = "sandbox.kernel-cache";

std::int64_t nanoseconds_of(const timespec& time) {
  constexpr std::int64_t second = 1'000'000'000;
  return time.tv_sec * second + time.tv_nsec;
}

} // namespace

GuardedFile::GuardedFile(std::filesystem::path path, std::string sha256)
    : path_(std::move(path)), sha256_(std::move(sha256)),
      file_(system_call(
          kGuardCode, path_.c_str(), [&] { return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC); })) {
  mark_ = mark();
  check_hash();
}

GuardedFile::Mark GuardedFile::mark() const {
  struct stat status {};

  system_call(kGuardCode, path_.c_str(), [&] { return ::fstat(file_.get(), &status); });
  return {status.st_ino,
          status.st_size,
          nanoseconds_of(status.st_mtim),
          nanoseconds_of(status.st_ctim)};
}

void GuardedFile::check_hash() const {
  Hasher hasher(HashAlgorithm::Sha256);
  std::vector<std::uint8_t> buffer(kMiB);
  for (off_t at = 0;;) {
    const auto got = system_call(kGuardCode, path_.c_str(), [&] {
      return ::pread(file_.get(), buffer.data(), buffer.size(), at);
    });
    if (got == 0) {
      break;
    }
    hasher.update(ByteView(buffer).first(static_cast<std::size_t>(got)));
    at += got;
  }
  if (hex_encode(hasher.finish().bytes()) != sha256_) {
    throw Error(
        Reaction::Corrupt,
        kGuardCode,
        fmt::format("{} is not what was written there: every machine would run it. Find out "
                    "who changed it, remove its folder, and start the daemon again",
                    path_.string()));
  }
}

UniqueFd GuardedFile::open_for_machine() {
  const std::lock_guard lock(mutex_);
  const auto now = mark();
  if (now != mark_) {
    check_hash();
    mark_ = now;
  }
  return file_.duplicate();
}

} // namespace nixbuild::sandbox
