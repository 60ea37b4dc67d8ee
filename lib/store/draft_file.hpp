#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/segment/writer.hpp>

#include <cstdint>
#include <functional>
#include <memory>

namespace nixbuild::store {

/// A blob that is being written: appended to through a large buffer, patched where it must be. The
/// file is made with the first bytes that reach it, so an empty blob has none. Once more than
/// 1 MiB has come, a thread of its own does the writing beside the caller's hashing. Memory: at
/// most 1.5 MiB. Errors of any call: `store.io`, `store.disk-full`; those of the thread come with a
/// later call.
class DraftFile final : public ByteSink, public segment::PatchableSink {
public:
  /// Makes the file, empty and writable. Called at most once, on the caller's thread.
  using Make = std::function<UniqueFd()>;

  /// `write_back`: start sending bytes to the disk while more come, so that the flush at the end
  /// finds little to do.
  DraftFile(Make make, bool write_back);
  ~DraftFile() override;

  void write(ByteView bytes) override;

  void append(ByteView bytes) override { write(bytes); }

  void patch(std::uint64_t offset, ByteView bytes) override;

  /// Hands all bytes to the system and ends the thread. Nothing may be written afterwards.
  void finish();

  /// Bytes written.
  [[nodiscard]] std::uint64_t size() const noexcept { return passed_on_ + buffer_.size(); }

  /// Valid after `finish`; empty when the blob is.
  [[nodiscard]] UniqueFd& fd() noexcept { return fd_; }

private:
  class Thread;

  void pass_on();

  Make make_;
  bool write_back_;
  UniqueFd fd_;
  Bytes buffer_;
  std::uint64_t passed_on_ = 0; ///< bytes that left the buffer
  std::unique_ptr<Thread> thread_;
};

} // namespace nixbuild::store
