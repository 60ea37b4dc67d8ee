#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>

namespace nixbuild::protocol::wire {

/// Bytes that have arrived and are not taken yet, contiguous. Every byte is moved a bounded number
/// of times however they come and go.
class Buffer {
public:
  void append(ByteView bytes) {
    if (offset_ > bytes_.size() / 2) {
      bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset_));
      offset_ = 0;
    }
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }

  [[nodiscard]] ByteView view() const noexcept { return ByteView(bytes_).subspan(offset_); }

  /// `count` is at most the size of the view.
  void consume(std::size_t count) {
    offset_ += count;
    if (offset_ == bytes_.size()) {
      bytes_.clear();
      offset_ = 0;
      if (bytes_.capacity() > kKeptBytes) {
        bytes_.shrink_to_fit();
      }
    }
  }

private:
  /// More than this is given back once it is empty.
  static constexpr std::size_t kKeptBytes = 1024 * 1024;

  Bytes bytes_;
  std::size_t offset_ = 0;
};

} // namespace nixbuild::protocol::wire
