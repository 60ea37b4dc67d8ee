#pragma once

#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/store/store.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

namespace nixbuild::server {

/// For several waits together: who sends a byte now and then gets no more time by it.
class Deadline {
public:
  explicit Deadline(std::chrono::milliseconds patience)
      : due_(std::chrono::steady_clock::now() + patience) {}

  /// What a wait may take now. Never zero, which would be no limit.
  [[nodiscard]] aio::Patience left() const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        due_ - std::chrono::steady_clock::now());
    return std::max(left, aio::Patience(1));
  }

private:
  std::chrono::steady_clock::time_point due_;
};

/// Lets several coroutines of one strand write to one stream without mixing their messages: what
/// comes while one of them writes is gathered and goes out behind it.
class SharedWriter {
public:
  /// `patience`: a client that takes nothing for so long has failed.
  SharedWriter(std::shared_ptr<aio::ByteStream> stream, aio::Patience patience);

  /// Sends `bytes` as one piece, after everything given before. Returns once they are sent, or,
  /// when another coroutine is writing, once little enough is waiting behind it. Errors: those of
  /// ByteStream::write_all, for every caller from the first failure on.
  aio::Task<void> write(std::string bytes);
  /// Returns once nothing waits any more.
  aio::Task<void> drain();

  [[nodiscard]] aio::ByteStream& stream() noexcept { return *stream_; }

  [[nodiscard]] const std::shared_ptr<aio::ByteStream>& shared_stream() noexcept { return stream_; }

private:
  std::shared_ptr<aio::ByteStream> stream_;
  aio::Patience patience_;
  std::string waiting_;
  bool writing_ = false;
  std::exception_ptr failure_;
  aio::Event changed_;
};

/// Regenerates the archive of `source` onto `out`: small pieces gathered behind what `gathered`
/// holds already, long ones from the page cache to the stream by the kernel. Leaves the last pieces
/// in `gathered`. Nobody else may write meanwhile.
aio::Task<void> send_archive(store::Export& source,
                             aio::ByteStream& out,
                             std::string& gathered,
                             aio::Patience patience);

/// Gathered bytes beyond this are sent before more are added.
inline constexpr std::size_t kGather = 128 * kKiB;

} // namespace nixbuild::server
