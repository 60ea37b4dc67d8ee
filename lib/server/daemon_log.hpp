#pragma once

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/log.hpp>

#include <cstdint>
#include <mutex>
#include <string>

namespace nixbuild::server {

/// The log of a daemon: a line each, with time and level. What clients and builders have said comes
/// in here as well, so control characters are replaced, and what is too long is cut: a message
/// makes one line, whatever is in it. Thread safe.
///
/// A file that is the daemon's own is bounded: once it is full it becomes `NAME.1`, in the place of
/// the one before, and a new one begins.
class DaemonLog final : public Log {
public:
  struct Settings {
    bool verbose = false;                  ///< debug lines, too
    std::uint64_t most_bytes = 8ULL << 20; ///< of the file
    std::size_t most_of_message = 4096;
  };

  /// Writes to `descriptor`, which outlives it. Where that is the file of this name, the file is
  /// the daemon's own, and the descriptor leads to the next file after a turn; so does standard
  /// output, if it leads to the same.
  DaemonLog(int descriptor, std::string file, Settings settings);

  void write(LogLevel level, std::string_view message) noexcept override;

  [[nodiscard]] bool is_bounded() const noexcept { return own_; }

private:
  void turn_over() noexcept;

  int descriptor_;
  std::string file_;
  Settings settings_;
  bool own_ = false;
  std::uint64_t size_ = 0;
  std::mutex mutex_;
};

} // namespace nixbuild::server
