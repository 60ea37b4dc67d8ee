#pragma once

#include <nixbuild/sandbox/guest_job.hpp>

#include <string>

/// The store as a builder sees it: a folder that takes its outputs, with every input mounted in its
/// place, as Nix does it. So each tree lies on one file system: device and inode numbers are those
/// of the files, in 32 bits, and stay the same however scarce memory is.
namespace nixbuild::guest {

/// Mounts the inputs' disk. Errors: `guest.system`, `guest.inputs` (there is none).
void mount_inputs();

/// Makes the folder `store`, and in it a place for each input. Errors: `guest.system`,
/// `guest.inputs` (the disk has no store directory).
void make_store(const std::string& store, const sandbox::GuestJob& job);

/// Mounts the inputs on their places in `store`. In a namespace of its own.
void bind_inputs(const std::string& store, const sandbox::GuestJob& job);

} // namespace nixbuild::guest
