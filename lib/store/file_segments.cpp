#include "disk_call.hpp"
#include "draft_file.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/store/files.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace nixbuild::store {

namespace {

namespace fs = std::filesystem;

/// Contents that are complete and not on the disk yet: more than so many are flushed unasked.
constexpr std::size_t kMostPending = 1024;
/// From so many on, two flushes of the file system are cheaper than two or three a segment; so more
/// of them need no open files.
constexpr std::size_t kFlushAllFrom = 8;

/// Calls `visit(name)` for each entry of a directory but `.` and `..`.
template <class Visit>
void visit_names(const fs::path& dir, Visit&& visit) {
  struct Close {
    void operator()(DIR* open) const noexcept { ::closedir(open); }
  };

  const std::unique_ptr<DIR, Close> open(::opendir(dir.c_str()));
  if (!open) {
    throw_system_error("store.io", "listing " + dir.string());
  }
  while (const auto* entry = ::readdir(open.get())) {
    const std::string_view name = static_cast<const char*>(entry->d_name);
    if (name != "." && name != "..") {
      visit(name);
    }
  }
}

/// A complete segment whose files still lie among the drafts.
struct Pending {
  fs::path draft; ///< without extension
  bool has_data = false;
  UniqueFd metadata; ///< open files only where few are pending
  UniqueFd data;
  bool syncing = false;
};

class FileSegments;

class FileDraft final : public SegmentDraft {
public:
  FileDraft(FileSegments& store, fs::path base, bool durable);
  ~FileDraft() override;
  FileDraft(const FileDraft&) = delete;
  FileDraft& operator=(const FileDraft&) = delete;

  ByteSink& data() override { return data_; }

  segment::PatchableSink& metadata() override { return metadata_; }

  void commit(const Hash& nar_hash) override;

private:
  FileSegments& store_;
  fs::path base_;
  bool kept_ = false;
  DraftFile data_;
  DraftFile metadata_;
};

fs::path with(fs::path base, const char* extension) {
  return base += extension;
}

UniqueFd make_draft(const fs::path& path) {
  return UniqueFd(disk_call("making " + path.string(), [&] {
    return ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  }));
}

class FileSegments final : public SegmentStore {
public:
  FileSegments(const fs::path& dir, const FileSegmentOptions& options)
      : segments_(dir / "segments"), drafts_(dir / "drafts"), options_(options) {
    make_directories(segments_);
    make_directories(drafts_);
    take_lock(dir / "lock");
    clean_up();
  }

  ~FileSegments() override {
    for (const auto& [hash, pending] : pending_) {
      remove_draft(pending.draft);
    }
  }

  FileSegments(const FileSegments&) = delete;
  FileSegments& operator=(const FileSegments&) = delete;

  std::unique_ptr<SegmentDraft> begin() override {
    return std::make_unique<FileDraft>(*this, new_draft(), options_.durable);
  }

  std::optional<OpenSegment> open(const Hash& nar_hash) override {
    const auto base = base_of(nar_hash);
    auto found = open_at(base);
    if (!found) {
      const std::lock_guard lock(mutex_);
      const auto pending = pending_.find(nar_hash);
      // Renamed or about to be: the names may be in either place.
      found = pending == pending_.end() ? std::nullopt : open_at(pending->second.draft);
      if (!found) {
        found = open_at(base);
      }
    }
    return found;
  }

  bool contains(const Hash& nar_hash) override {
    const std::lock_guard lock(mutex_);
    return pending_.contains(nar_hash) || on_disk(nar_hash);
  }

  void remove(const Hash& nar_hash) override {
    std::unique_lock lock(mutex_);
    settled_.wait(lock, [&] {
      const auto found = pending_.find(nar_hash);
      return found == pending_.end() || !found->second.syncing;
    });
    if (const auto found = pending_.find(nar_hash); found != pending_.end()) {
      remove_draft(found->second.draft);
      pending_.erase(found);
    }
    if (!on_disk(nar_hash)) {
      return;
    }
    // Out of sight first. When the process dies before the data is gone too, the draft that is
    // left makes the next start look for it.
    const auto base = base_of(nar_hash);
    const auto draft = new_draft();
    rename_file(with(base, ".meta"), with(draft, ".meta"));
    unlink_quietly(with(base, ".data"));
    unlink_quietly(with(draft, ".meta"));
  }

  void sync(std::span<const Hash> nar_hashes) override;
  void visit(const std::function<void(const Hash&)>& visit) override;

  /// Takes a complete draft over; false when its contents are there already.
  bool adopt(const Hash& nar_hash, Pending pending);

private:
  using Group = std::map<Hash, Pending*>;

  [[nodiscard]] fs::path base_of(const Hash& nar_hash) const {
    const auto text = nix32_encode(nar_hash.bytes());
    return segments_ / text.substr(0, 2) / text;
  }

  [[nodiscard]] fs::path new_draft() { return drafts_ / std::to_string(next_draft_++); }

  [[nodiscard]] bool on_disk(const Hash& nar_hash) const {
    return ::access(with(base_of(nar_hash), ".meta").c_str(), F_OK) == 0;
  }

  static void remove_draft(const fs::path& draft) noexcept {
    unlink_quietly(fs::path(draft) += ".meta");
    unlink_quietly(fs::path(draft) += ".data");
  }

  static std::optional<OpenSegment> open_at(const fs::path& base) {
    OpenSegment open;
    open.metadata = open_existing(with(base, ".meta"));
    if (!open.metadata) {
      return std::nullopt;
    }
    open.metadata_bytes = size_of(open.metadata.get(), "looking at stored metadata");
    open.data = open_existing(with(base, ".data"));
    if (open.data) {
      open.data_bytes = size_of(open.data.get(), "looking at stored contents");
    }
    return open;
  }

  void take_lock(const fs::path& path) {
    lock_ = UniqueFd(disk_call("opening " + path.string(), [&] {
      return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }));
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      throw Error(Reaction::Busy,
                  "store.locked",
                  fmt::format("{}: another process has this store open", path.string()));
    }
  }

  /// A draft that was left behind tells that the last process died; only then a blob may stand
  /// alone among the segments.
  void clean_up() {
    std::vector<fs::path> left;
    visit_names(drafts_, [&](std::string_view name) { left.push_back(drafts_ / name); });
    if (left.empty()) {
      return;
    }
    visit_names(segments_, [&](std::string_view dir) {
      visit_names(segments_ / dir, [&](std::string_view name) {
        auto path = segments_ / dir / name;
        if (path.extension() == ".data" && !fs::exists(path.replace_extension(".meta"))) {
          unlink_quietly(path.replace_extension(".data"));
        }
      });
    });
    for (const auto& path : left) {
      unlink_quietly(path);
    }
  }

  void make_visible(const Group& group);
  void flush(const Group& group) const;
  void flush_all() const;
  /// Returns the directories that have new entries.
  std::set<fs::path> rename_all(const Group& group);
  void settle(const Group& group);

  fs::path segments_;
  fs::path drafts_;
  FileSegmentOptions options_;
  UniqueFd lock_;
  std::atomic<std::uint64_t> next_draft_ = 0;
  std::mutex mutex_;
  std::condition_variable settled_;
  std::map<Hash, Pending> pending_; ///< nodes stay where they are while `syncing`
};

FileDraft::FileDraft(FileSegments& store, fs::path base, bool durable)
    : store_(store), base_(std::move(base)),
      data_([this] { return make_draft(with(base_, ".data")); }, durable),
      metadata_([this] { return make_draft(with(base_, ".meta")); }, durable) {}

FileDraft::~FileDraft() {
  if (!kept_) {
    unlink_quietly(fs::path(base_) += ".meta");
    unlink_quietly(fs::path(base_) += ".data");
  }
}

void FileDraft::commit(const Hash& nar_hash) {
  data_.finish();
  metadata_.finish();
  if (!metadata_.fd()) {
    throw Error(Reaction::Internal, "store.io", "a segment without metadata");
  }
  Pending pending;
  pending.draft = base_;
  pending.metadata = std::move(metadata_.fd());
  pending.data = std::move(data_.fd());
  pending.has_data = static_cast<bool>(pending.data);
  kept_ = store_.adopt(nar_hash, std::move(pending));
}

bool FileSegments::adopt(const Hash& nar_hash, Pending pending) {
  std::vector<Hash> too_many;
  {
    const std::lock_guard lock(mutex_);
    if (pending_.contains(nar_hash) || on_disk(nar_hash)) {
      return false;
    }
    if (pending_.size() >= kFlushAllFrom) {
      pending.metadata.reset();
      pending.data.reset();
    }
    pending_.emplace(nar_hash, std::move(pending));
    if (pending_.size() > kMostPending) {
      for (const auto& [hash, waiting] : pending_) {
        if (!waiting.syncing) {
          too_many.push_back(hash);
        }
      }
    }
  }
  if (!too_many.empty()) {
    sync(too_many);
  }
  return true;
}

void FileSegments::flush(const Group& group) const {
  if (group.size() >= kFlushAllFrom) {
    flush_all();
    return;
  }
  const auto flush_one = [](const UniqueFd& fd, const fs::path& path) {
    const auto opened = fd ? UniqueFd() : open_existing(path);
    disk_call("flushing a stored segment",
              [&] { return ::fdatasync(fd ? fd.get() : opened.get()); });
  };
  for (const auto& [hash, pending] : group) {
    if (pending->has_data) {
      flush_one(pending->data, with(pending->draft, ".data"));
    }
    flush_one(pending->metadata, with(pending->draft, ".meta"));
  }
}

void FileSegments::flush_all() const {
  disk_call("flushing stored segments", [&] { return ::syncfs(lock_.get()); });
}

std::set<fs::path> FileSegments::rename_all(const Group& group) {
  std::set<fs::path> dirs;
  for (const auto& [hash, pending] : group) {
    const auto base = base_of(hash);
    if (dirs.insert(base.parent_path()).second && !fs::exists(base.parent_path())) {
      make_directories(base.parent_path());
      dirs.insert(segments_);
    }
    // The metadata last: with it the segment is there.
    if (pending->has_data) {
      rename_file(with(pending->draft, ".data"), with(base, ".data"));
    } else {
      unlink_quietly(with(base, ".data"));
    }
    rename_file(with(pending->draft, ".meta"), with(base, ".meta"));
  }
  return dirs;
}

void FileSegments::make_visible(const Group& group) {
  if (!options_.durable) {
    rename_all(group);
    return;
  }
  flush(group);
  const auto dirs = rename_all(group);
  if (group.size() >= kFlushAllFrom) {
    flush_all();
    return;
  }
  for (const auto& dir : dirs) {
    sync_directory(dir);
  }
}

void FileSegments::settle(const Group& group) {
  const std::lock_guard lock(mutex_);
  for (const auto& [hash, pending] : group) {
    remove_draft(pending->draft); // nothing is left of it, unless making it visible failed
    pending_.erase(hash);
  }
  settled_.notify_all();
}

void FileSegments::sync(std::span<const Hash> nar_hashes) {
  Group group;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& hash : nar_hashes) {
      const auto found = pending_.find(hash);
      if (found != pending_.end() && !found->second.syncing) {
        found->second.syncing = true;
        group.emplace(hash, &found->second);
      }
    }
  }
  if (!group.empty()) {
    try {
      make_visible(group);
    } catch (...) {
      settle(group);
      throw;
    }
    settle(group);
  }
  // Others may be at work on the rest.
  std::unique_lock lock(mutex_);
  settled_.wait(lock, [&] {
    return std::none_of(nar_hashes.begin(), nar_hashes.end(), [&](const Hash& hash) {
      return pending_.contains(hash);
    });
  });
  for (const auto& hash : nar_hashes) {
    if (!group.contains(hash) && !on_disk(hash)) {
      throw Error(Reaction::Busy,
                  "store.missing-segment",
                  fmt::format("segment {} did not reach the disk", nix32_encode(hash.bytes())));
    }
  }
}

void FileSegments::visit(const std::function<void(const Hash&)>& visit) {
  std::vector<Hash> hashes;
  visit_names(segments_, [&](std::string_view dir) {
    visit_names(segments_ / dir, [&](std::string_view name) {
      constexpr std::string_view kEnd = ".meta";
      if (name.size() == nix32_length(32) + kEnd.size() && name.ends_with(kEnd)) {
        name.remove_suffix(kEnd.size());
        hashes.emplace_back(HashAlgorithm::Sha256, nix32_decode(name, 32));
      }
    });
  });
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [hash, pending] : pending_) {
      hashes.push_back(hash);
    }
  }
  std::sort(hashes.begin(), hashes.end());
  hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  for (const auto& hash : hashes) {
    visit(hash);
  }
}

} // namespace

std::unique_ptr<SegmentStore> open_file_segments(const std::filesystem::path& dir,
                                                 const FileSegmentOptions& options) {
  return std::make_unique<FileSegments>(dir, options);
}

} // namespace nixbuild::store
