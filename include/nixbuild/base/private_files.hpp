#pragma once

#include <sys/stat.h>

namespace nixbuild {

/// The first thing that every program of this project does: what it makes is for nobody else, also
/// where a mode was forgotten. For programs only, before they have threads. Returns the umask that
/// the program was started with.
inline mode_t make_files_private() noexcept {
  return ::umask(077);
}

} // namespace nixbuild
