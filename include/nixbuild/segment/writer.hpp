#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/nar/event.hpp>

#include <cstdint>
#include <memory>

/// The stored form of a store path (decision D2): a *data blob* (contents of regular files, each
/// starting at a 4 KiB border) and a *metadata blob* (relocatable EROFS inodes and directories).
/// Pure: bytes and offsets, no files, no store paths' meaning.
namespace nixbuild::segment {

inline constexpr std::uint64_t kBlock = 4096;

/// Where a metadata blob is written: appended to, and patched once: the header at its begin is
/// written last, so that a blob whose writer never finished is refused by every reader.
/// Implementations throw on failure.
class PatchableSink {
public:
  virtual ~PatchableSink() = default;
  virtual void append(ByteView bytes) = 0;
  /// Overwrites bytes that were appended before; never beyond the end.
  virtual void patch(std::uint64_t offset, ByteView bytes) = 0;
};

/// Turns NAR events into the two blobs while they arrive. Memory: the entries of the directories
/// that are open (name and 8 bytes each, four times that while one is closed), nothing per closed
/// one, and two buffers of 64 KiB. Files up to 1 KiB lie in the metadata, all others in the data.
/// Errors (Reject): `segment.syntax` (calls out of order), `segment.name`, `segment.target`,
/// `segment.limit` (1,024 levels, 2^32 nodes or blocks, 128 GiB of metadata). Not thread safe.
class NIXBUILD_API Writer final : public nar::EventSink {
public:
  /// Both sinks outlive the writer. The data sink gets whole blocks in the end (zero padding
  /// included), so its size is a multiple of kBlock.
  Writer(ByteSink& data, PatchableSink& metadata);
  ~Writer() override;

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

  /// Completes both blobs. Error `segment.truncated` when the tree is not complete.
  void finish();

  [[nodiscard]] std::uint64_t data_bytes() const noexcept;
  [[nodiscard]] std::uint64_t metadata_bytes() const noexcept;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::segment
