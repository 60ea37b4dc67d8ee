#pragma once

#include <nixbuild/base/api.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace nixbuild::server {

/// How one of the daemon's own loops is doing.
struct LoopReport {
  std::string name; ///< one word: `accept`, `tick`, `sync`, …
  /// Since its last turn that went well, or since its start.
  std::chrono::milliseconds age{0};
  bool late = false;              ///< that is longer than its turns may take
  std::uint64_t turns = 0;        ///< that went well
  std::uint64_t failures = 0;     ///< turns that ended by an exception
  std::uint64_t failed_again = 0; ///< of these, since the last one that went well
  std::string last_error;         ///< of the last such turn; for the operator only

  [[nodiscard]] bool well() const noexcept { return !late && failed_again == 0; }
};

/// True when every loop is well.
[[nodiscard]] NIXBUILD_API bool all_well(const std::vector<LoopReport>& loops) noexcept;

/// `ok`, or `failing`, and a line for each loop: its name and how long ago it did its work. Says no
/// error's text, which may name files.
[[nodiscard]] NIXBUILD_API std::string health_text(const std::vector<LoopReport>& loops);

} // namespace nixbuild::server
