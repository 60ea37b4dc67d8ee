#include "sandbox/runner/log_spool.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace nixbuild::sandbox::runner {

LogSpool::LogSpool(const char* name)
    : file_(system_call("sandbox.log", name, [&] {
        return ::open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
      })) {}

void LogSpool::append(ByteView bytes) {
  while (!bytes.empty()) {
    const auto put = system_call("sandbox.log", "writing the log", [&] {
      return ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(size_));
    });
    size_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

std::string LogSpool::read(std::uint64_t offset, std::size_t limit) const {
  std::string text(std::min<std::uint64_t>(limit, size_ - std::min(offset, size_)), '\0');
  const auto got = system_call("sandbox.log", "reading the log", [&] {
    return ::pread(file_.get(), text.data(), text.size(), static_cast<off_t>(offset));
  });
  text.resize(static_cast<std::size_t>(got));
  return text;
}

} // namespace nixbuild::sandbox::runner
