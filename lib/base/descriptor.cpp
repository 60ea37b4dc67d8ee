#include <nixbuild/base/descriptor.hpp>

#include <fcntl.h>
#include <unistd.h>

namespace nixbuild {

void UniqueFd::reset(int fd) noexcept {
  if (fd_ >= 0) {
    ::close(fd_);
  }
  fd_ = fd;
}

UniqueFd UniqueFd::duplicate() const {
  return UniqueFd(system_call("system.duplicate", "duplicating a descriptor", [&] {
    return ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  }));
}

} // namespace nixbuild
