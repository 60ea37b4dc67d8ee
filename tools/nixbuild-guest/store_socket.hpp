#pragma once

#include <nixbuild/sandbox/guest_job.hpp>

#include <sys/types.h>

#include <string>

/// A store to talk to for a builder that asks for one (`recursive-nix`).
namespace nixbuild::guest {

/// The socket in the build directory, and two processes behind it: one carries its conversations to
/// the host, the other puts the paths into the store that the host lets in. Both end with this
/// object; the builder's clients see their conversations end.
class StoreSocket {
public:
  /// Errors: `guest.system`, `guest.port`.
  StoreSocket(const sandbox::GuestJob& job, const std::string& root);
  ~StoreSocket();
  StoreSocket(const StoreSocket&) = delete;
  StoreSocket& operator=(const StoreSocket&) = delete;

private:
  pid_t relay_ = -1;
  pid_t receiver_ = -1;
};

} // namespace nixbuild::guest
