#pragma once

#include <nixbuild/sandbox/guest_job.hpp>

#include <string>

/// The tree that a builder sees, as Nix makes it. Source: protocol facts 5.2.
namespace nixbuild::guest {

/// Where what takes all writes is mounted.
inline constexpr const char* kScratch = "/scratch";

/// Mounts the inputs' disk and what takes all writes, and makes the builder's root between them.
/// Returns its path. `initramfs` holds the shell. Errors: `guest.system`, `guest.inputs` (no disk,
/// or one without the store directory).
[[nodiscard]] std::string make_build_root(const sandbox::GuestJob& job, int initramfs);

/// The part that belongs to the builder's own namespaces: the inputs, /proc, terminals; then the
/// root becomes `root`, and nothing else stays within reach. In the child only.
void enter_build_root(const std::string& root, const sandbox::GuestJob& job);

/// Where /dev/shm is, in the guest's own view.
[[nodiscard]] std::string shared_memory_in(const std::string& root);

/// What takes all writes is no disk.
[[nodiscard]] bool scratch_in_memory();

/// Where the outputs are, in the guest's own view.
[[nodiscard]] std::string store_in(const std::string& root, const sandbox::GuestJob& job);

} // namespace nixbuild::guest
