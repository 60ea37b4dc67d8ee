#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/nar/event.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::nar {

enum class EntryType : std::uint8_t { Regular, Symlink, Directory };

/// One node of a listed archive. Only the name is kept, not the path, so that a hostile archive
/// (long names, deep trees) cannot make the listing larger than itself.
struct ListedEntry {
  std::string name; ///< empty: the root
  EntryType type = EntryType::Regular;
  bool executable = false;
  std::uint64_t size = 0;       ///< bytes of a regular file, else 0
  std::uint64_t nar_offset = 0; ///< of a regular file's contents within the archive, else 0
  std::string target;           ///< of a symlink
  std::size_t depth = 0;        ///< directories above; 0: the root
};

/// Collects an archive's tree without its contents, in archive order. Memory: about 120 bytes a
/// node and its name. Not thread safe.
class NIXBUILD_API Listing final : public EventSink {
public:
  static constexpr std::size_t kDefaultMaximum = 1'000'000;

  /// Error `nar.limit` when the archive has more than `maximum` nodes.
  explicit Listing(std::size_t maximum = kDefaultMaximum) : maximum_(maximum) {}

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

  /// All nodes, each directory before its children; the root is the first.
  [[nodiscard]] std::span<const ListedEntry> entries() const noexcept { return entries_; }

  /// Calls `visit(path, entry)` for each node; the root's path is empty, others begin with `/`.
  void
  for_each(const std::function<void(std::string_view path, const ListedEntry& entry)>& visit) const;

  /// One line a node as `nix nar ls -lR` writes it: mode, size in 20 columns, `./path`, ` ->
  /// target`. A root directory has no line of its own. Control characters are not escaped.
  void write_text(ByteSink& out) const;
  /// As `nix nar ls --json -R` writes it, without white space:
  /// `{"type":"directory","entries":{…}}`. Names and targets that are not UTF-8 have U+FFFD for
  /// each wrong byte.
  void write_json(ByteSink& out) const;

private:
  ListedEntry& add(EntryType type);

  std::size_t maximum_;
  std::vector<ListedEntry> entries_;
  std::string name_;
  std::size_t depth_ = 0;
  std::uint64_t position_ = 0;
};

} // namespace nixbuild::nar
