#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/model/path_info.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// What the benchmarks send: store paths with their NARs, the same bytes in every run.
namespace nixbuild::perf {

/// A store path and its NAR in memory. Pieces may repeat, so that a gigabyte costs little memory.
struct Payload {
  model::PathInfo info;
  std::vector<ByteView> pieces;
  std::vector<std::shared_ptr<const std::string>> owned; ///< what the pieces look into
};

/// One regular file of `size` bytes that do not compress.
[[nodiscard]] Payload big_file(std::uint64_t size);
/// Directories of 100 text files of about 2.9 KiB each.
[[nodiscard]] Payload file_tree(std::size_t files);
/// Paths of one file of `file_size` bytes each, without references.
[[nodiscard]] std::vector<Payload> small_paths(std::size_t count, std::size_t file_size);
/// Paths of one short file each; each refers to up to five before it, and the last one's closure is
/// all of them.
[[nodiscard]] std::vector<Payload> linked_paths(std::size_t count);
/// Names that no store of the benchmarks has.
[[nodiscard]] model::StorePaths absent_paths(std::size_t count);

} // namespace nixbuild::perf
