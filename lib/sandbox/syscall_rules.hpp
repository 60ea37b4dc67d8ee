#pragma once

#include <linux/filter.h>

#include <vector>

/// Which system calls an emulator may make.
namespace nixbuild::sandbox::jail {

/// The filter of a jailed process, for seccomp(2). It holds from before the exec of the emulator
/// on, for all of its threads, and the emulator can only add to it.
[[nodiscard]] std::vector<sock_filter> emulator_syscall_filter();

} // namespace nixbuild::sandbox::jail
