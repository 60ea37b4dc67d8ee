#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/store/segment_store.hpp>

#include <cstdint>
#include <string>

namespace nixbuild::store {

/// An open segment with its metadata in memory: read when small, mapped when large (a mapping costs
/// a system resource of which a process has 65,530). Not copied, not moved: views stay valid.
class StoredContents {
public:
  explicit StoredContents(OpenSegment open);
  ~StoredContents();
  StoredContents(const StoredContents&) = delete;
  StoredContents& operator=(const StoredContents&) = delete;

  [[nodiscard]] ByteView metadata() const noexcept { return metadata_; }

  [[nodiscard]] int data_fd() const noexcept { return data_.get(); }

  [[nodiscard]] std::uint64_t data_bytes() const noexcept { return data_bytes_; }

private:
  UniqueFd data_;
  std::uint64_t data_bytes_;
  Bytes small_;
  void* mapping_ = nullptr;
  ByteView metadata_;
};

/// The whole contents of a regular file. Error `store.short-data`.
[[nodiscard]] std::string read_contents(const StoredContents& contents, const segment::Node& file);

} // namespace nixbuild::store
