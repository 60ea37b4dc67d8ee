#include "draft_file.hpp"

#include "disk_call.hpp"

#include <fcntl.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace nixbuild::store {

namespace {

constexpr std::size_t kBuffer = 512 * kKiB;
constexpr std::uint64_t kThreadFrom = kMiB;
constexpr std::uint64_t kWriteBackStep = 8 * kMiB;
constexpr std::string_view kWriting = "writing a stored blob";

} // namespace

/// Writes one buffer while the caller fills the next.
class DraftFile::Thread {
public:
  Thread(int fd, std::uint64_t offset, bool write_back)
      : fd_(fd), offset_(offset), started_(offset), write_back_(write_back),
        thread_([this] { run(); }) {}

  ~Thread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Takes the full buffer and leaves an empty one. Waits while the last one is not taken up yet.
  void exchange(Bytes& buffer) {
    std::unique_lock lock(mutex_);
    wait_until_taken(lock);
    std::swap(pending_, buffer);
    changed_.notify_all();
    buffer.clear();
  }

  /// Returns when everything handed over has been written.
  void drain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return (pending_.empty() && !busy_) || error_; });
    if (error_) {
      std::rethrow_exception(error_);
    }
  }

private:
  void wait_until_taken(std::unique_lock<std::mutex>& lock) {
    changed_.wait(lock, [&] { return pending_.empty() || error_; });
    if (error_) {
      std::rethrow_exception(error_);
    }
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || !pending_.empty(); });
      if (stopping_) {
        return;
      }
      std::swap(writing_, pending_);
      busy_ = true;
      // The caller may fill the next one already.
      changed_.notify_all();
      lock.unlock();
      std::exception_ptr error;
      try {
        write_out();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      writing_.clear();
      busy_ = false;
      error_ = error;
      changed_.notify_all();
      if (error) {
        return;
      }
    }
  }

  void write_out() {
    write_all(fd_, writing_, kWriting);
    offset_ += writing_.size();
    if (write_back_ && offset_ - started_ >= kWriteBackStep) {
      // Only a hint: where a file system cannot, the flush at the end does it all.
      ::sync_file_range(fd_,
                        static_cast<off64_t>(started_),
                        static_cast<off64_t>(offset_ - started_),
                        SYNC_FILE_RANGE_WRITE);
      started_ = offset_;
    }
  }

  int fd_;
  std::uint64_t offset_;
  std::uint64_t started_;
  bool write_back_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Bytes pending_;
  Bytes writing_;
  bool stopping_ = false;
  bool busy_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

DraftFile::DraftFile(Make make, bool write_back)
    : make_(std::move(make)), write_back_(write_back) {}

DraftFile::~DraftFile() = default;

void DraftFile::pass_on() {
  if (buffer_.empty()) {
    return;
  }
  if (!fd_) {
    fd_ = make_();
  }
  const auto count = buffer_.size();
  if (!thread_ && passed_on_ >= kThreadFrom) {
    thread_ = std::make_unique<Thread>(fd_.get(), passed_on_, write_back_);
  }
  if (thread_) {
    thread_->exchange(buffer_);
  } else {
    write_all(fd_.get(), buffer_, kWriting);
    buffer_.clear();
  }
  passed_on_ += count;
}

void DraftFile::write(ByteView bytes) {
  while (!bytes.empty()) {
    const auto count = std::min(bytes.size(), kBuffer - buffer_.size());
    buffer_.insert(
        buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    bytes = bytes.subspan(count);
    if (buffer_.size() == kBuffer) {
      pass_on();
    }
  }
}

void DraftFile::patch(std::uint64_t offset, ByteView bytes) {
  if (offset < passed_on_) {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), passed_on_ - offset));
    if (thread_) {
      thread_->drain();
    }
    write_all_at(fd_.get(), offset, bytes.first(count), kWriting);
    bytes = bytes.subspan(count);
    offset += count;
  }
  if (bytes.size() > size() - std::min(offset, size())) {
    throw Error(Reaction::Internal, "store.io", "a patch beyond the end of a blob");
  }
  std::copy(bytes.begin(),
            bytes.end(),
            buffer_.begin() + static_cast<std::ptrdiff_t>(offset - passed_on_));
}

void DraftFile::finish() {
  pass_on();
  if (thread_) {
    thread_->drain();
    thread_.reset();
  }
  buffer_ = {};
}

} // namespace nixbuild::store
