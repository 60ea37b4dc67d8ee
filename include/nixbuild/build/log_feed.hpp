#pragma once

#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

namespace nixbuild::build {

/// The log of one running build: written once, followed by any number of readers at their own pace.
/// The newest part is held in memory; what a slow reader has missed it reads from the log store.
/// A reader that does not read never slows the build. Thread safe.
class NIXBUILD_API LogFeed {
public:
  static constexpr std::size_t kHeldBytes = 256 * 1024;

  LogFeed() = default;

  /// A log of which `begin` bytes are in the log store already.
  explicit LogFeed(std::uint64_t begin) : begin_(begin) {}

  void append(ByteView bytes);
  /// No more comes.
  void close();

  struct Piece {
    std::string bytes;
    bool missed = false;     ///< the offset is no longer held: read it from the log store
    bool closed = false;     ///< nothing more will come after `bytes`
    std::uint64_t count = 0; ///< for `event().wait`
  };

  /// Up to 64 KiB that are held from `offset` on; empty when there is nothing yet.
  [[nodiscard]] Piece read(std::uint64_t offset) const;
  [[nodiscard]] std::uint64_t size() const;

  [[nodiscard]] aio::Event& event() noexcept { return changed_; }

private:
  mutable std::mutex mutex_;
  std::string held_;
  std::uint64_t begin_ = 0; ///< offset of held_[0]
  bool closed_ = false;
  mutable aio::Event changed_;
};

} // namespace nixbuild::build
