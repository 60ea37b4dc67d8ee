#pragma once

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/sandbox/guest_job.hpp>

#include <sys/types.h>

#include <cstdint>
#include <string>

/// Starting the builder as Nix does. Source: protocol facts 5.2.
namespace nixbuild::guest {

struct Builder {
  pid_t pid = -1;
  UniqueFd terminal;   ///< master of its pty, non-blocking
  std::string failure; ///< why it does not run; empty: it does
};

/// What the builder has instead of an input.
enum class Input : std::uint8_t {
  None,     ///< /dev/null; its terminal passes bytes as they are
  Terminal, ///< its terminal, which it controls, with echo and line editing
};

/// Starts it as process 1 of its own namespaces, in `root`, and waits until it has been executed.
/// A builder `builtin:…` is a program in `initramfs`. When that fails the process has been reaped.
/// Errors: `guest.system`.
[[nodiscard]] Builder start_builder(const sandbox::GuestJob& job,
                                    const std::string& root,
                                    int initramfs,
                                    Input input = Input::None);

} // namespace nixbuild::guest
