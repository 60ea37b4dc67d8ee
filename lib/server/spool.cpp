#include "spool.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>

namespace nixbuild::server {

namespace {

constexpr std::size_t kHeld = kMiB;

/// Not /tmp, which may be memory.
std::string spool_folder() {
  const char* chosen = std::getenv("TMPDIR");
  return chosen != nullptr && *chosen != '\0' ? chosen : "/var/tmp";
}

} // namespace

void Spool::move_to_file() {
  const auto folder = spool_folder();
  file_.reset(system_call("session.spool", "making an unnamed file in " + folder, [&] {
    return ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  }));
  write_out(held_);
  held_ = Bytes();
}

void Spool::write_out(ByteView bytes) {
  while (!bytes.empty()) {
    const auto count = ::write(file_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno != EINTR) {
      throw_system_error(errno == ENOSPC ? "store.disk-full" : "session.spool",
                         "writing a file that is not stored yet");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  }
}

void Spool::append(ByteView bytes) {
  if (bytes.size() > kLimit - size_) {
    throw Error(
        Reaction::Reject,
        "session.spool-limit",
        fmt::format("a file is larger than the {} bytes that are taken in this way", kLimit));
  }
  if (!file_ && held_.size() + bytes.size() > kHeld) {
    move_to_file();
  }
  if (file_) {
    write_out(bytes);
  } else {
    held_.insert(held_.end(), bytes.begin(), bytes.end());
  }
  size_ += bytes.size();
}

std::size_t Spool::read(std::uint64_t offset, MutableBytes buffer) const {
  if (file_) {
    return static_cast<std::size_t>(system_call("session.spool", "reading a spooled file", [&] {
      return ::pread(file_.get(), buffer.data(), buffer.size(), static_cast<off_t>(offset));
    }));
  }
  const auto begin = std::min<std::uint64_t>(offset, held_.size());
  const auto count =
      static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), held_.size() - begin));
  std::copy_n(held_.begin() + static_cast<std::ptrdiff_t>(begin), count, buffer.begin());
  return count;
}

} // namespace nixbuild::server
