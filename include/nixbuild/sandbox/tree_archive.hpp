#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/nar/event.hpp>

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

/// Between a tree of files and the events of a NAR. For trees that somebody hostile has made but
/// changes no more: no symlink is ever followed, and what is opened is checked again.
namespace nixbuild::sandbox {

struct ArchiveOptions {
  /// The tree's name in messages; its path where empty.
  std::string shown_as;
  /// Every node must belong to this user. Protocol facts 5.8.
  std::optional<uid_t> owner;
  nar::Limits limits{};
};

/// Sends the tree below `name` in the directory `parent` (AT_FDCWD where `name` is a path) to
/// `sink` in canonical form: entries sorted by bytes, executable when the owner may execute, all
/// other modes, times and attributes dropped. Memory: the names of one directory per level.
/// Descriptors: one per level. Errors: `archive.type` ("file '…' has an unsupported type": not a
/// regular file, directory or symlink), `archive.owner`, `archive.changed` (a file shrank while
/// being read), `archive.read` (system errors), `nar.depth`, `nar.limit`, `nar.name`,
/// `nar.target`. The sink's own errors pass.
NIXBUILD_API void archive_tree(int parent,
                               std::string_view name,
                               nar::EventSink& sink,
                               const ArchiveOptions& options);

/// Creates a tree from events: `name` below the directory `parent`. Nothing that exists is opened,
/// followed or replaced. With `read_only` as in a store: files get mode 0444 or 0555, directories
/// 0755 while being filled and 0555 afterwards, all of them the modification time 1; else the umask
/// decides (0666, 0777), and the clock. Partial trees are left to the
/// caller. Errors: `unpack.exists`, `unpack.write` (system errors), `unpack.events` (events out of
/// order). Not thread safe.
class NIXBUILD_API TreeUnpacker final : public nar::EventSink {
public:
  /// `parent` outlives the object.
  TreeUnpacker(int parent, std::string name, bool read_only = false);
  ~TreeUnpacker() override;

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::sandbox
