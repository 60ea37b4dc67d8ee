#include "client_streams.hpp"

#include <nixbuild/base/error.hpp>

#include <unistd.h>

#include <utility>
#include <variant>

namespace nixbuild::server {

namespace {

/// What may wait behind a slow write before those who add to it wait too.
constexpr std::size_t kWaitingBytes = 256 * kKiB;
/// Shorter ranges of stored contents are copied into the gathered reply; longer ones go by
/// sendfile.
constexpr std::uint64_t kCopyBelow = 32 * kKiB;

void append_range(std::string& out, int file, const segment::DataPiece& range) {
  const std::size_t old = out.size();
  out.resize(old + static_cast<std::size_t>(range.length));
  const auto count = system_call("store.read", "reading stored contents", [&] {
    return ::pread(file,
                   out.data() + old,
                   static_cast<std::size_t>(range.length),
                   static_cast<off_t>(range.offset));
  });
  if (static_cast<std::uint64_t>(count) != range.length) {
    throw Error(Reaction::Corrupt, "store.short-data", "stored contents end too early");
  }
}

} // namespace

SharedWriter::SharedWriter(std::shared_ptr<aio::ByteStream> stream, aio::Patience patience)
    : stream_(std::move(stream)), patience_(patience) {}

aio::Task<void> SharedWriter::write(std::string bytes) {
  if (failure_) {
    std::rethrow_exception(failure_);
  }
  waiting_ += bytes;
  if (writing_) {
    while (writing_ && waiting_.size() > kWaitingBytes) {
      co_await changed_.wait(changed_.count());
    }
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    co_return;
  }
  writing_ = true;
  try {
    while (!waiting_.empty()) {
      const std::string now = std::exchange(waiting_, std::string());
      changed_.notify();
      co_await stream_->write_all(bytes_of(now), patience_);
    }
  } catch (...) {
    failure_ = std::current_exception();
  }
  writing_ = false;
  changed_.notify();
  if (failure_) {
    std::rethrow_exception(failure_);
  }
}

aio::Task<void> SharedWriter::drain() {
  while (writing_) {
    co_await changed_.wait(changed_.count());
  }
  if (failure_) {
    std::rethrow_exception(failure_);
  }
}

aio::Task<void> send_archive(store::Export& source,
                             aio::ByteStream& out,
                             std::string& gathered,
                             aio::Patience patience) {
  while (std::optional<segment::NarPiece> piece = source.next()) {
    if (const auto* literal = std::get_if<segment::LiteralPiece>(&*piece)) {
      gathered.append(text_of(literal->bytes));
    } else {
      const auto range = std::get<segment::DataPiece>(*piece);
      if (range.length < kCopyBelow) {
        append_range(gathered, source.data_fd(), range);
      } else {
        co_await out.write_all(bytes_of(gathered), patience);
        gathered.clear();
        co_await out.send_file(source.data_fd(), range.offset, range.length, patience);
      }
    }
    if (gathered.size() >= kGather) {
      co_await out.write_all(bytes_of(gathered), patience);
      gathered.clear();
    }
  }
}

} // namespace nixbuild::server
