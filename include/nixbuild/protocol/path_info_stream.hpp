#pragma once

#include <nixbuild/model/path_info.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

/// What the frames of AddMultipleToStore carry: a count, then for each path its info and its NAR,
/// dependencies first. The infos have the layout of worker 1.16 whatever was negotiated.
/// Source: protocol facts 3.5, T22.
namespace nixbuild::protocol {

/// Push reader of the payload (not of the frames). Same guarantees as worker::RequestReader.
class NIXBUILD_API PathInfoStream {
public:
  /// First of all: how many paths will come.
  struct Count {
    std::uint64_t paths = 0;
    bool operator==(const Count&) const = default;
  };

  struct End {
    bool operator==(const End&) const = default;
  };

  /// After a PathInfo its `nar_size` bytes are to be taken.
  using Item = std::variant<Count, model::PathInfo, End>;

  explicit PathInfoStream(model::StoreDir dir, Limits limits = {});
  ~PathInfoStream();
  PathInfoStream(PathInfoStream&&) noexcept;
  PathInfoStream& operator=(PathInfoStream&&) noexcept;

  void feed(ByteView bytes);
  /// Nothing while bytes are missing, while `nar_left` is not 0, and after End. Errors (Reject):
  /// `wire.limit` (also for the count), `wire.padding`, `wire.integer`, `wire.string`, `hash.*`,
  /// `store-path.*`.
  [[nodiscard]] std::optional<Item> next();
  /// Bytes of the current NAR that have not been taken.
  [[nodiscard]] std::uint64_t nar_left() const noexcept;
  /// Those of them at hand; empty outside a NAR.
  [[nodiscard]] ByteView nar() const noexcept;
  /// `count` is at most the size of `nar()`.
  void consume_nar(std::size_t count);
  /// End has been given and nothing follows it.
  [[nodiscard]] bool finished() const noexcept;

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Client side. Each appends payload, which the caller puts into frames.
NIXBUILD_API void write_path_count(std::string& out, std::uint64_t paths);
/// The NAR follows.
NIXBUILD_API void
write_path_info(std::string& out, const model::StoreDir& dir, const model::PathInfo& info);

} // namespace nixbuild::protocol
