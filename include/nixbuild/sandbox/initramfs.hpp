#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <string>
#include <vector>

/// The first file system of a build's machine: a cpio archive with the guest program, a shell and
/// the kernel modules that it loads.
namespace nixbuild::sandbox {

struct InitramfsModule {
  std::string file;       ///< file name (`virtio_blk.ko`, `erofs.ko.xz`): one path component
  Bytes contents;         ///< as it is: the kernel decompresses where it can
  bool on_demand = false; ///< loaded when the kernel asks for it; must not be compressed
};

struct InitramfsInputs {
  Bytes guest;   ///< nixbuild-guest, static; becomes /init
  Bytes busybox; ///< static; becomes /bin/busybox, later the builder's /bin/sh
  std::vector<InitramfsModule> modules; ///< in load order
  Bytes builtin{}; ///< nixbuild-builtin, static; becomes /bin/nixbuild-builtin; empty: none
};

/// A newc cpio archive, uncompressed: /init, /bin/…, /modules/…, /modules/order (one file
/// name a line, without those on demand), and the folders /dev, /proc, /sys, /run to mount on.
/// Deterministic: entries sorted by path, time 1, owner 0. Errors: `sandbox.initramfs` (a program
/// is empty, a module's name is no path component or given twice).
[[nodiscard]] NIXBUILD_API Bytes build_initramfs(const InitramfsInputs& inputs);

} // namespace nixbuild::sandbox
