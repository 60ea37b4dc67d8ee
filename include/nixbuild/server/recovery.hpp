#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/log.hpp>
#include <nixbuild/store/store.hpp>

#include <cstddef>
#include <string>

/// The store writes without waiting for the disk: the death of the daemon loses nothing, and a
/// power failure at most the last seconds. For those seconds the database may know of contents that
/// never reached the disk; they are found and forgotten at the next start (decision 0010).
namespace nixbuild::server {

/// Brings everything below `state_dir` to the disk and notes the time. Blocks on the disk.
/// Errors: `recovery.sync`.
NIXBUILD_API void sync_state(const std::string& state_dir);

/// Called once before sessions come. When the machine has been started anew since the last call for
/// this state directory, every path whose contents are missing, or were written after the last
/// `sync_state` and do not verify, is forgotten together with the paths that refer to it. Returns
/// how many. Cost after a restart of the machine: one look at each stored file, plus verifying the
/// last seconds' contents. `boot_id` names this run of the machine; the default reads the kernel's.
NIXBUILD_API std::size_t recover_state(const std::string& state_dir,
                                       store::Store& store,
                                       store::SegmentStore& segments,
                                       Log& log,
                                       std::string boot_id = {});

} // namespace nixbuild::server
