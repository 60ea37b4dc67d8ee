#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <filesystem>

/// The life of one build on one machine, as its own process (program `nixbuild-runner`). It takes
/// the plan from the daemon, starts the jailed emulator, keeps the log in `DIR/log`, relays, and
/// lives on when the daemon dies: another one connects to `DIR/runner.sock` and attaches.
namespace nixbuild::sandbox {

/// Runs until the build has been collected, killed or given up, then removes `directory`. `daemon`
/// is the first connection. Single-threaded; changes the working directory. Returns the exit
/// status: 0 when the build was collected or killed as asked, 1 otherwise (a reason is on stderr).
NIXBUILD_API int run_runner(const std::filesystem::path& directory, UniqueFd daemon);

} // namespace nixbuild::sandbox
