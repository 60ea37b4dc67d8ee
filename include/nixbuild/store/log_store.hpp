#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/clock.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace nixbuild::store {

/// Port: the logs of builds by build number. Thread safe, synchronous.
class LogStore {
public:
  virtual ~LogStore() = default;
  /// Appends; the log is made when missing.
  virtual void append(std::int64_t build, ByteView bytes) = 0;
  /// No more comes; may compress it.
  virtual void finish(std::int64_t build) = 0;
  /// Up to `limit` bytes from `offset` of the log's bytes (uncompressed), or nothing when there is
  /// no such log. An empty text: nothing more at the moment.
  virtual std::optional<std::string>
  read(std::int64_t build, std::uint64_t offset, std::size_t limit) = 0;
  /// Bytes of a log that is not finished; 0 when there is none.
  [[nodiscard]] virtual std::uint64_t size(std::int64_t build) = 0;
  [[nodiscard]] virtual bool finished(std::int64_t build) = 0;
  /// Removes the logs that were finished before `time`; returns how many. Looks at every log.
  virtual std::size_t remove_finished_before(WallTime time) = 0;
};

} // namespace nixbuild::store
