#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/error.hpp>

#include <cerrno>
#include <string_view>
#include <utility>

namespace nixbuild {

/// Owns one file descriptor and closes it. Every descriptor the library opens is close-on-exec.
class NIXBUILD_API UniqueFd {
public:
  UniqueFd() noexcept = default;

  explicit UniqueFd(int fd) noexcept : fd_(fd) {}

  ~UniqueFd() { reset(); }

  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset(std::exchange(other.fd_, -1));
    }
    return *this;
  }

  [[nodiscard]] int get() const noexcept { return fd_; }

  [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }

  /// Gives the descriptor up to the caller.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

  void reset(int fd = -1) noexcept;
  /// A second descriptor of the same open file description, close-on-exec.
  [[nodiscard]] UniqueFd duplicate() const;

private:
  int fd_ = -1;
};

/// Calls `call` again while it fails with EINTR; throws `throw_system_error(code, what)` when it
/// fails otherwise; returns its result. The only way system calls are made in this library.
template <class Call>
auto system_call(std::string_view code, std::string_view what, Call&& call) {
  for (;;) {
    auto result = call();
    if (result != static_cast<decltype(result)>(-1)) {
      return result;
    }
    if (errno != EINTR) {
      throw_system_error(code, what);
    }
  }
}

} // namespace nixbuild
