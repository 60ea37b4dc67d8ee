#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

namespace nixbuild::server {

/// Lines of the server's own in a build's log begin so.
inline constexpr std::string_view kOwnLine = "[nixbuild] ";

/// The command that shows the whole log of `derivation`, a printed store path, as the last line of
/// an error; nothing where that is empty.
[[nodiscard]] std::string full_log(std::string_view derivation);

/// What a client sees before the first byte of a builder's: the number of its build, then what the
/// server itself has to say of it. That the builder runs under emulation a session is told once.
class LogHead {
public:
  /// `told`: this session knows of the emulation; shared by all logs that it is shown.
  explicit LogHead(std::shared_ptr<bool> told);

  /// The log's next bytes; returns what is to be shown now. `build`: the number of the build, known
  /// with the first bytes; 0: none is said.
  std::string take(std::int64_t build, std::string bytes);
  /// What is still held when the log has ended.
  std::string finish();

private:
  std::shared_ptr<bool> told_;
  std::string held_;
  bool begun_ = false;
  bool passed_ = false; ///< the builder's own bytes have begun
};

/// The last lines of a builder's, for the error of a build that has failed. The server's own do not
/// count. Memory is bounded by kTailBytes.
class LogTail {
public:
  static constexpr std::size_t kDefaultLines = 25; ///< Nix's `log-lines`
  static constexpr std::size_t kMostLines = 1000;
  static constexpr std::size_t kTailBytes = 64 * 1024;

  explicit LogTail(std::size_t lines);

  void add(std::string_view line);

  /// What is said behind a failure's reason: the lines and full_log; nothing of a builder that has
  /// said nothing.
  [[nodiscard]] std::string text(std::string_view derivation) const;

private:
  std::size_t most_;
  std::deque<std::string> lines_;
  std::size_t bytes_ = 0;
  bool any_ = false;
};

} // namespace nixbuild::server
