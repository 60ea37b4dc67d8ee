#include "stored_contents.hpp"

#include "disk_call.hpp"

#include <nixbuild/base/error.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace nixbuild::store {

namespace {

constexpr std::uint64_t kMapFrom = 64 * kKiB;

} // namespace

StoredContents::StoredContents(OpenSegment open)
    : data_(std::move(open.data)), data_bytes_(open.data_bytes) {
  const auto size = static_cast<std::size_t>(open.metadata_bytes);
  if (open.metadata_bytes < kMapFrom) {
    small_.resize(size);
    read_exactly_at(open.metadata.get(), 0, small_, "reading stored metadata");
    metadata_ = small_;
    return;
  }
  disk_call("mapping stored metadata", [&] {
    void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, open.metadata.get(), 0);
    if (mapped == MAP_FAILED) {
      return -1;
    }
    mapping_ = mapped;
    return 0;
  });
  metadata_ = ByteView(static_cast<const std::uint8_t*>(mapping_), size);
}

StoredContents::~StoredContents() {
  if (mapping_ != nullptr) {
    ::munmap(mapping_, metadata_.size());
  }
}

std::string read_contents(const StoredContents& contents, const segment::Node& file) {
  std::string text(static_cast<std::size_t>(file.size), '\0');
  if (file.inlined) {
    const auto bytes =
        contents.metadata().subspan(static_cast<std::size_t>(file.offset), text.size());
    std::copy(bytes.begin(), bytes.end(), text.begin());
    return text;
  }
  std::size_t have = 0;
  while (have < text.size()) {
    const auto count = system_call("store.read", "reading stored contents", [&] {
      return ::pread(contents.data_fd(),
                     text.data() + have,
                     text.size() - have,
                     static_cast<off_t>(file.offset + have));
    });
    if (count == 0) {
      throw Error(Reaction::Corrupt, "store.short-data", "stored contents end too early");
    }
    have += static_cast<std::size_t>(count);
  }
  return text;
}

} // namespace nixbuild::store
