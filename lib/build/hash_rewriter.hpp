#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::build {

/// Replaces hash parts of store paths by others in a stream of bytes, at any offset and across the
/// borders of its pieces. Of texts that overlap the first one counts; what was put in is not looked
/// at again. Lengths stay. Source: protocol facts 4.8, 5.10.
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

  [[nodiscard]] std::size_t find(const Change& change, std::size_t at) const;
  void apply_changes();

  std::vector<Change> changes_;
  std::string window_;
  std::size_t settled_ = 0;    ///< bytes at the window's begin that were given out
  std::uint64_t position_ = 0; ///< of the window in the stream
  std::uint64_t next_ = 0;     ///< where in the stream the next text may begin
  std::vector<std::uint64_t> noted_;
};

} // namespace nixbuild::build
