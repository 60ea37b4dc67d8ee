#include <nixbuild/build/log_feed.hpp>

namespace nixbuild::build {

namespace {
constexpr std::size_t kPieceBytes = 64 * kKiB;
} // namespace

void LogFeed::append(ByteView bytes) {
  {
    const std::lock_guard lock(mutex_);
    held_.append(text_of(bytes));
    // Dropped in big steps: erasing the front of a text moves all of it.
    if (held_.size() > 2 * kHeldBytes) {
      const std::size_t excess = held_.size() - kHeldBytes;
      held_.erase(0, excess);
      begin_ += excess;
    }
  }
  changed_.notify();
}

void LogFeed::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify();
}

LogFeed::Piece LogFeed::read(std::uint64_t offset) const {
  Piece piece;
  piece.count = changed_.count();
  const std::lock_guard lock(mutex_);
  if (offset < begin_) {
    piece.missed = true;
    return piece;
  }
  const std::uint64_t end = begin_ + held_.size();
  if (offset < end) {
    piece.bytes = held_.substr(static_cast<std::size_t>(offset - begin_), kPieceBytes);
  }
  piece.closed = closed_ && offset + piece.bytes.size() >= end;
  return piece;
}

std::uint64_t LogFeed::size() const {
  const std::lock_guard lock(mutex_);
  return begin_ + held_.size();
}

} // namespace nixbuild::build
