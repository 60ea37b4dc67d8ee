#pragma once

#include "segment/inode.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace nixbuild::segment {

/// Directories inside each other. Deeper trees cannot be named by any path the kernel accepts.
inline constexpr std::size_t kMaxDepth = 1024;

/// A directory of a metadata blob, and the one it is in.
struct ScannedDirectory {
  std::uint32_t slot = 0;
  std::uint32_t parent = 0; ///< its own for a root
  std::uint32_t depth = 1;  ///< levels below and including it
};

struct ScanResult {
  Inode root;
  std::uint32_t inodes = 0;
  std::vector<ScannedDirectory> directories; ///< by address
};

/// Goes through a metadata blob from its begin to its end and checks all there is to check.
/// Error `segment.corrupt`.
[[nodiscard]] ScanResult scan(const Blobs& blobs);

/// Calls `visit` for each inode by address. Only for a blob that was scanned.
void for_each_inode(const Blobs& blobs, const std::function<void(const Inode& inode)>& visit);

} // namespace nixbuild::segment
