#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/nar/event.hpp>

#include <cstddef>
#include <memory>

namespace nixbuild::nar {

/// Push parser of one NAR. Feed it bytes in any cut; it calls the sink as soon as something is
/// known. Strict: field order, `contents` required, zero padding, ascending names, the limits.
/// Memory: a few KiB plus 8 bytes and one name per level of depth. Not thread safe.
class NIXBUILD_API Reader {
public:
  /// `sink` outlives the reader.
  explicit Reader(EventSink& sink, const Limits& limits = {});
  ~Reader();
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;

  /// Consumes bytes up to the archive's end; returns how many. Less than given only when the
  /// archive ended inside `bytes`. Errors (Reject): `nar.syntax`, `nar.padding`, `nar.name`,
  /// `nar.unsorted-entry`, `nar.target`, `nar.depth`, `nar.limit`, each with the offset. After an
  /// error the reader is dead.
  std::size_t feed(ByteView bytes);
  [[nodiscard]] bool finished() const noexcept;
  /// Bytes consumed so far.
  [[nodiscard]] std::uint64_t offset() const noexcept;
  /// Error `nar.truncated` unless finished.
  void expect_finished() const;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::nar
