#pragma once

#include <nixbuild/base/bytes.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace nixbuild::nar {

/// Gathers small pieces in one buffer before they reach a sink; large ones go through uncopied.
/// `Sink` is anything with `void write(ByteView)`.
template <class Sink>
class Gather {
public:
  static constexpr std::size_t kBuffer = 64 * kKiB;
  /// Pieces from this size on are not worth a copy.
  static constexpr std::size_t kLarge = 16 * kKiB;

  explicit Gather(Sink& sink)
      : sink_(&sink), buffer_(std::make_unique_for_overwrite<std::uint8_t[]>(kBuffer)) {}

  void add(ByteView bytes) {
    if (bytes.size() > kBuffer - used_) {
      flush();
    }
    if (bytes.size() >= kLarge) {
      flush();
      sink_->write(bytes);
    } else if (!bytes.empty()) {
      std::memcpy(buffer_.get() + used_, bytes.data(), bytes.size());
      used_ += bytes.size();
    }
    total_ += bytes.size();
  }

  void zeros(std::uint64_t count) {
    static constexpr std::array<std::uint8_t, 4096> kZeros{};
    while (count > 0) {
      const auto part = std::min<std::uint64_t>(count, kZeros.size());
      add(ByteView(kZeros).first(static_cast<std::size_t>(part)));
      count -= part;
    }
  }

  void flush() {
    if (used_ > 0) {
      sink_->write({buffer_.get(), used_});
      used_ = 0;
    }
  }

  /// Bytes added so far.
  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }

private:
  Sink* sink_;
  std::unique_ptr<std::uint8_t[]> buffer_;
  std::size_t used_ = 0;
  std::uint64_t total_ = 0;
};

} // namespace nixbuild::nar
