#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/nar/event.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace nixbuild::segment {

/// A piece of a NAR that is being regenerated: bytes that are at hand, or a range of the data blob
/// that the caller sends itself (sendfile, splice, read).
struct LiteralPiece {
  ByteView bytes; ///< valid until the next call
};

struct DataPiece {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

using NarPiece = std::variant<LiteralPiece, DataPiece>;

/// Regenerates the NAR of a segment, piece by piece, in constant memory (one frame per level of
/// depth and one gathering buffer of 64 KiB). Not thread safe.
class NIXBUILD_API NarSource {
public:
  /// `metadata` outlives the source and is a whole metadata blob (mapped or read).
  /// Error `segment.corrupt` (here and in `next`) when it does not hold together; every address is
  /// checked against the blobs' sizes before use. The blob's sum is checked by `validate` and
  /// `compose` only, because it costs a pass over all of it.
  NarSource(ByteView metadata, std::uint64_t data_bytes);
  ~NarSource();
  NarSource(NarSource&&) noexcept;
  NarSource& operator=(NarSource&&) noexcept;

  /// The next piece, or nothing at the end.
  [[nodiscard]] std::optional<NarPiece> next();

private:
  struct State;
  std::unique_ptr<State> state_;
};

enum class NodeType : std::uint8_t { Regular, Executable, Symlink, Directory };

/// One node of a segment's tree.
struct Node {
  NodeType type = NodeType::Regular;
  std::uint64_t size = 0;    ///< of a regular file
  std::string target;        ///< of a symlink
  bool inlined = false;      ///< contents lie in the metadata blob at `offset`
  std::uint64_t offset = 0;  ///< in the data blob, or in the metadata blob when inlined
  std::uint64_t address = 0; ///< of the inode in the metadata blob, for `children`
};

/// Random access to a segment's tree without unpacking it.
class NIXBUILD_API Tree {
public:
  /// As NarSource.
  Tree(ByteView metadata, std::uint64_t data_bytes);

  [[nodiscard]] Node root() const;
  /// The node at a relative path (`bin/hello`; empty: the root), or nothing. Symlinks are not
  /// followed.
  [[nodiscard]] std::optional<Node> find(std::string_view path) const;
  /// Calls `visit(name, node)` for each entry in NAR order; stops when it returns false.
  void children(const Node& directory,
                const std::function<bool(std::string_view, const Node&)>& visit) const;

private:
  ByteView metadata_;
  std::uint64_t data_bytes_;
};

/// Walks the whole metadata blob and checks its sum (CRC-32C) and that every inode, directory and
/// address is in range, names are valid and sorted, every inode is reached once, and no cycle
/// exists. Cost: linear. Error `segment.corrupt`.
NIXBUILD_API void validate(ByteView metadata, std::uint64_t data_bytes);

} // namespace nixbuild::segment
