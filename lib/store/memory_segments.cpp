#include "disk_call.hpp"
#include "draft_file.hpp"

#include <nixbuild/store/memory.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace nixbuild::store {

namespace {

UniqueFd make_memory_file() {
  return UniqueFd(disk_call("making a file in memory",
                            [] { return ::memfd_create("nixbuild-segment", MFD_CLOEXEC); }));
}

/// A second, read-only open file of a memory file.
UniqueFd reopen(const UniqueFd& file) {
  if (!file) {
    return {};
  }
  const auto name = fmt::format("/proc/self/fd/{}", file.get());
  return UniqueFd(disk_call("opening a file in memory",
                            [&] { return ::open(name.c_str(), O_RDONLY | O_CLOEXEC); }));
}

struct Blobs {
  UniqueFd metadata;
  UniqueFd data;
};

class MemorySegments final : public SegmentStore {
public:
  class Draft final : public SegmentDraft {
  public:
    explicit Draft(MemorySegments& store) : store_(store) {}

    ByteSink& data() override { return data_; }

    segment::PatchableSink& metadata() override { return metadata_; }

    void commit(const Hash& nar_hash) override {
      data_.finish();
      metadata_.finish();
      const std::lock_guard lock(store_.mutex_);
      store_.blobs_.try_emplace(nar_hash, Blobs{std::move(metadata_.fd()), std::move(data_.fd())});
    }

  private:
    MemorySegments& store_;
    DraftFile data_{make_memory_file, false};
    DraftFile metadata_{make_memory_file, false};
  };

  std::unique_ptr<SegmentDraft> begin() override { return std::make_unique<Draft>(*this); }

  std::optional<OpenSegment> open(const Hash& nar_hash) override {
    const std::lock_guard lock(mutex_);
    const auto found = blobs_.find(nar_hash);
    if (found == blobs_.end()) {
      return std::nullopt;
    }
    OpenSegment open;
    open.metadata = reopen(found->second.metadata);
    open.data = reopen(found->second.data);
    open.metadata_bytes = size_of(open.metadata.get(), "looking at a file in memory");
    if (open.data) {
      open.data_bytes = size_of(open.data.get(), "looking at a file in memory");
    }
    return open;
  }

  bool contains(const Hash& nar_hash) override {
    const std::lock_guard lock(mutex_);
    return blobs_.contains(nar_hash);
  }

  void sync(std::span<const Hash>) override {}

  void visit(const std::function<void(const Hash&)>& visit) override {
    std::vector<Hash> hashes;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [hash, blobs] : blobs_) {
        hashes.push_back(hash);
      }
    }
    for (const auto& hash : hashes) {
      visit(hash);
    }
  }

  void remove(const Hash& nar_hash) override {
    const std::lock_guard lock(mutex_);
    blobs_.erase(nar_hash);
  }

private:
  std::mutex mutex_;
  std::map<Hash, Blobs> blobs_;
};

} // namespace

std::unique_ptr<SegmentStore> make_memory_segments() {
  return std::make_unique<MemorySegments>();
}

} // namespace nixbuild::store
