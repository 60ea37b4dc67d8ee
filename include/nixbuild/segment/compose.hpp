#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nixbuild::segment {

/// One store path of a closure.
struct Part {
  std::string name; ///< base name under the store directory
  ByteView metadata;
  std::uint64_t data_bytes = 0; ///< multiple of kBlock
};

/// Where a part's data blob lies on the composed disk.
struct PlacedData {
  std::size_t part = 0;          ///< index into the parts given
  std::uint64_t disk_offset = 0; ///< multiple of kBlock
  std::uint64_t length = 0;      ///< multiple of kBlock, not 0
};

/// `[head | relocated metadata of all parts | data blobs]`, largest data blob first, so that the
/// small ones at the end can be gathered into one file.
struct ComposedDisk {
  std::uint64_t head_bytes = 0; ///< what was written to `head`; multiple of kBlock
  std::uint64_t disk_bytes = 0; ///< whole disk; multiple of kBlock
  std::vector<PlacedData>
      data; ///< in disk order, without gaps from head_bytes on; empty blobs left out
};

/// Writes superblock, `/`, the store directory with exactly these names, and the parts' metadata,
/// relocated. `store_dir` is absolute (`/nix/store`). Every inode is uid 0, gid 0, mtime 1.
/// Any kernel from 5.4 mounts the result: no compression, no device table.
/// Each part is validated (as by `validate`) before any of its bytes are written; after an error
/// what `head` got is no disk. The parts' data is not looked at.
/// Cost: two passes over the metadata, in constant memory but for 12 bytes a directory and 2 bits
/// per 32 bytes of the part at hand. Errors: `segment.name` (invalid, duplicate), `segment.corrupt`
/// (names the part), `segment.limit` (disk beyond 2^32 blocks).
[[nodiscard]] NIXBUILD_API ComposedDisk compose(std::string_view store_dir,
                                                std::span<const Part> parts,
                                                ByteSink& head);

} // namespace nixbuild::segment
