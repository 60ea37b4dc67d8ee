#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <cstddef>
#include <cstdint>

namespace nixbuild::server {

/// Bytes that have to be known whole before they can be stored: a flat file whose size nobody has
/// announced. Held in memory at first, beyond 1 MiB in a file without a name. Calls may block.
class Spool {
public:
  static constexpr std::uint64_t kLimit = 64 * kGiB;

  /// Errors: `session.spool-limit`, `session.spool`, `store.disk-full`.
  void append(ByteView bytes);

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// Up to a buffer's length of bytes from `offset` on; 0 at the end. Error `session.spool`.
  [[nodiscard]] std::size_t read(std::uint64_t offset, MutableBytes buffer) const;

private:
  void move_to_file();
  void write_out(ByteView bytes);

  Bytes held_;
  UniqueFd file_;
  std::uint64_t size_ = 0;
};

} // namespace nixbuild::server
