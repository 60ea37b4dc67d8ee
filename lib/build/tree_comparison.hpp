#pragma once

#include <nixbuild/nar/event.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/store/store.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nixbuild::build {

/// Compares a tree that arrives as events with a path of the store, in one pass and without keeping
/// anything of it but the names of the folders that are open. What differs is told file by file,
/// with the first bytes that do. Errors: `segment.corrupt`, `store.io`. Blocks on the disk.
class TreeComparison final : public nar::EventSink {
public:
  /// `stored` outlives the object. `most` differences are described; all are counted.
  TreeComparison(const store::Export& stored, std::size_t most);

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

  [[nodiscard]] std::uint64_t differences() const noexcept { return differences_; }

  /// A line for each, `bin/hello: …`; `.` is the root.
  [[nodiscard]] const std::vector<std::string>& lines() const noexcept { return lines_; }

private:
  struct Folder {
    std::vector<std::pair<std::string, segment::Node>> entries; ///< of the stored one, in order
    std::size_t next = 0;
    std::size_t path_length = 0;
  };

  void differ(const std::string& what);
  void differ_at(std::string_view name, const std::string& what);
  void left_out(Folder& folder, std::optional<std::string_view> before);
  void leave();
  [[nodiscard]] Bytes stored_bytes(std::uint64_t offset, std::size_t count) const;

  const store::Export& stored_;
  std::size_t most_;
  std::uint64_t differences_ = 0;
  std::vector<std::string> lines_;
  std::string path_;
  std::vector<Folder> folders_;
  std::size_t unmatched_ = 0;         ///< folders that are open below what is only in the new tree
  std::optional<segment::Node> node_; ///< of the stored tree, where the next node is; or none
  std::uint64_t offset_ = 0;          ///< in the file
  bool comparing_ = false;            ///< its contents are the same so far
};

} // namespace nixbuild::build
