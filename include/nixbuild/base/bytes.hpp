#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild {

/// Bytes that somebody else owns.
using ByteView = std::span<const std::uint8_t>;
/// Bytes that may be written.
using MutableBytes = std::span<std::uint8_t>;
/// Owned bytes.
using Bytes = std::vector<std::uint8_t>;

/// The bytes of a text, without a copy. Valid as long as the text is.
inline ByteView bytes_of(std::string_view text) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// Bytes looked at as characters, without a copy. Valid as long as the bytes are.
inline std::string_view text_of(ByteView bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Where a producer of bytes puts them. `write` takes all of `bytes` or throws; the view is valid
/// only during the call.
class ByteSink {
public:
  virtual ~ByteSink() = default;
  virtual void write(ByteView bytes) = 0;
};

/// A sink that appends to a string it does not own. No limit: only for bytes of known size.
class StringSink final : public ByteSink {
public:
  explicit StringSink(std::string& out) : out_(out) {}

  void write(ByteView bytes) override { out_.append(text_of(bytes)); }

private:
  std::string& out_;
};

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;

} // namespace nixbuild
