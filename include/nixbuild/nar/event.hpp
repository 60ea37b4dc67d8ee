#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nixbuild::nar {

/// Limits of what is accepted as a NAR. Source: protocol facts 4.1.
struct Limits {
  std::size_t name_bytes = 255;
  std::size_t target_bytes = 4095;
  std::size_t depth = 64;                             ///< levels, the root being the first
  std::uint64_t entries = 20'000'000;                 ///< nodes in one archive
  std::uint64_t total_bytes = std::uint64_t{1} << 44; ///< of the archive
};

/// The tree inside a NAR, in archive order, as a stream of calls. Views are valid during the call
/// only. A call may throw; the producer then stops and lets the exception pass.
///
///     node      := regular | symlink | directory
///     regular   := regular(executable, size) contents* regular_end()
///     symlink   := symlink(target)
///     directory := directory() ( entry(name) node )* directory_end()
class EventSink {
public:
  virtual ~EventSink() = default;
  virtual void regular(bool executable, std::uint64_t size) = 0;
  /// Some of the file's bytes, never empty; the pieces of one file add up to its size.
  virtual void contents(ByteView bytes) = 0;
  virtual void regular_end() = 0;
  virtual void symlink(std::string_view target) = 0;
  virtual void directory() = 0;
  /// Names come strictly ascending by bytes, valid, and within the limits.
  virtual void entry(std::string_view name) = 0;
  virtual void directory_end() = 0;
};

} // namespace nixbuild::nar
