#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::build {

/// Replaces hash parts of store paths by others in a stream of bytes, at any offset and across the
/// borders of its pieces. Lengths stay. Source: protocol facts 4.8, 5.10.
class HashRewriter {
public:
  static constexpr std::size_t kLength = 32;
  static constexpr std::size_t kMostNoted = 1024 * 1024;

  /// From the next byte on. Both texts have kLength bytes; where `noted`, offsets are kept.
  void replace(std::string_view from, std::string_view to, bool noted = false);

  /// What of the stream is settled now; valid until the next call. Error `build.occurrences` beyond
  /// kMostNoted noted occurrences.
  [[nodiscard]] ByteView feed(ByteView bytes);
  /// The rest.
  [[nodiscard]] ByteView finish();

  /// Where in the stream noted texts stood, ascending.
  [[nodiscard]] const std::vector<std::uint64_t>& noted() const noexcept { return noted_; }

private:
  struct Change {
    std::string from;
    std::string to;
    bool noted;
  };

  void apply(const Change& change);

  std::vector<Change> changes_;
  std::string window_;
  std::size_t settled_ = 0;    ///< bytes at the window's begin that were given out
  std::uint64_t position_ = 0; ///< of the window in the stream
  std::vector<std::uint64_t> noted_;
};

} // namespace nixbuild::build
