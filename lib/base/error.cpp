#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace nixbuild {

Error::Error(Reaction reaction, std::string_view code, std::string message)
    : reaction_(reaction), code_(code), message_(std::move(message)), what_(message_) {}

Error& Error::add_context(std::string_view frame) {
  what_.insert(0, ": ").insert(0, frame);
  return *this;
}

int exit_code_of(Reaction reaction) noexcept {
  switch (reaction) {
  case Reaction::Reject:
  case Reaction::Disconnected:
  case Reaction::Cancelled:
    return 1;
  case Reaction::Denied:
  case Reaction::Unsupported:
    return 3;
  case Reaction::NotFound:
    return 4;
  case Reaction::Busy:
  case Reaction::Timeout:
    return 5;
  case Reaction::Corrupt:
  case Reaction::Internal:
    break;
  }
  return 70;
}

std::string_view name_of(Reaction reaction) noexcept {
  switch (reaction) {
  case Reaction::Reject:
    return "reject";
  case Reaction::NotFound:
    return "not-found";
  case Reaction::Denied:
    return "denied";
  case Reaction::Busy:
    return "busy";
  case Reaction::Disconnected:
    return "disconnected";
  case Reaction::Timeout:
    return "timeout";
  case Reaction::Cancelled:
    return "cancelled";
  case Reaction::Unsupported:
    return "unsupported";
  case Reaction::Corrupt:
    return "corrupt";
  case Reaction::Internal:
    break;
  }
  return "internal";
}

namespace {

Reaction reaction_of_errno(int number) noexcept {
  switch (number) {
  case ENOSPC:
  case EDQUOT:
  case EMFILE:
  case ENFILE:
    return Reaction::Busy;
  case ENOENT:
    return Reaction::NotFound;
  case EACCES:
  case EPERM:
    return Reaction::Denied;
  case EPIPE:
  case ECONNRESET:
    return Reaction::Disconnected;
  default:
    return Reaction::Internal;
  }
}

} // namespace

void throw_system_error(std::string_view code, std::string_view what, int error_number) {
  const int number = error_number != 0 ? error_number : errno;
  throw Error(reaction_of_errno(number), code, fmt::format("{}: {}", what, std::strerror(number)));
}

} // namespace nixbuild
