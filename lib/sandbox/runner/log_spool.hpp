#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <cstdint>
#include <string>

namespace nixbuild::sandbox::runner {

/// The build's log in a file of the run folder, for any daemon that attaches.
class LogSpool {
public:
  /// Makes `name` in the working directory. Errors: `sandbox.log`.
  explicit LogSpool(const char* name);

  void append(ByteView bytes);
  /// At most `limit` bytes from `offset` on.
  [[nodiscard]] std::string read(std::uint64_t offset, std::size_t limit) const;

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

private:
  UniqueFd file_;
  std::uint64_t size_ = 0;
};

} // namespace nixbuild::sandbox::runner
