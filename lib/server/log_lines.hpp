#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace nixbuild::server {

/// Longer lines of a log are cut, in bytes.
inline constexpr std::size_t kLongestLine = 4 * kMiB;

/// Cuts a build's log into lines as Nix shows them: a carriage return that no line feed follows
/// begins the line anew; the last line needs no end. Lines beyond 4 MiB are cut. Source: protocol
/// facts 5.3.
class LogLines {
public:
  using Take = std::function<void(std::string line)>;

  /// Calls `take` for each line that is complete.
  void feed(std::string_view bytes, const Take& take);
  /// The last line, when something is left of one.
  void finish(const Take& take);

private:
  std::string line_;
  bool returned_ = false; ///< the last byte was a carriage return
};

/// What a line `@nix {…}` of a builder asks for.
struct PhaseBegun {
  std::string phase;
};

struct MessageFromBuilder {
  std::uint64_t level = 0;
  std::string text;
};

struct OtherControl {}; ///< nothing that a builder may ask for

using ControlLine = std::variant<PhaseBegun, MessageFromBuilder, OtherControl>;

/// Nothing when the line is an ordinary one, which one with a message that lacks its parts is, too.
[[nodiscard]] std::optional<ControlLine> parse_control_line(std::string_view line);

} // namespace nixbuild::server
