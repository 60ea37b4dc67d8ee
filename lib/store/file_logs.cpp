#include "disk_call.hpp"
#include "log_archive.hpp"
#include "log_rules.hpp"

#include <nixbuild/store/files.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>

namespace nixbuild::store {

namespace {

namespace fs = std::filesystem;

/// Bytes returned by one read at most, whatever was asked for.
constexpr std::size_t kMostRead = 4 * kMiB;

/// `<dir>/<build / 1000>/<build>.log`, or `.log.zst` once it is finished. The compressed one counts
/// when both are there (the process died between making one and removing the other).
class FileLogs final : public LogStore {
public:
  explicit FileLogs(fs::path dir) : dir_(std::move(dir)) { make_directories(dir_); }

  void append(std::int64_t build, ByteView bytes) override {
    const std::lock_guard lock(mutex_);
    auto found = growing_.find(build);
    if (found == growing_.end()) {
      if (finished(build)) {
        throw_log_finished(build);
      }
      found = growing_.emplace(build, open_growing(build)).first;
    }
    write_all(found->second.get(), bytes, "writing a log");
  }

  void finish(std::int64_t build) override {
    UniqueFd plain;
    {
      const std::lock_guard lock(mutex_);
      if (finished(build)) {
        return;
      }
      const auto found = growing_.find(build);
      plain = found == growing_.end() ? open_growing(build) : std::move(found->second);
      growing_.erase(build);
    }
    const auto path = path_of_log(build, ".log.zst");
    const auto draft = path_of_log(build, ".log.draft");
    {
      const UniqueFd archive(disk_call("making " + draft.string(), [&] {
        return ::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
      }));
      write_log_archive(plain.get(), archive.get());
      disk_call("flushing a log", [&] { return ::fdatasync(archive.get()); });
    }
    rename_file(draft, path);
    unlink_quietly(path_of_log(build, ".log"));
  }

  std::optional<std::string>
  read(std::int64_t build, std::uint64_t offset, std::size_t limit) override {
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (const auto archive = open_existing(path_of_log(build, ".log.zst"))) {
        return read_log_archive(archive.get(), offset, limit);
      }
      if (const auto plain = open_existing(path_of_log(build, ".log"))) {
        return read_plain(plain.get(), offset, limit);
      }
      // Finished between the two looks: the second time it is found.
    }
    return std::nullopt;
  }

  std::uint64_t size(std::int64_t build) override {
    const auto plain = finished(build) ? UniqueFd() : open_existing(path_of_log(build, ".log"));
    return plain ? size_of(plain.get(), "looking at a log") : 0;
  }

  bool finished(std::int64_t build) override {
    return ::access(path_of_log(build, ".log.zst").c_str(), F_OK) == 0;
  }

  /// The archive's time is that of its finish: nothing writes to it afterwards.
  std::size_t remove_finished_before(WallTime time) override {
    std::size_t count = 0;
    for (const auto& folder : fs::directory_iterator(dir_)) {
      if (!folder.is_directory()) {
        continue;
      }
      for (const auto& log : fs::directory_iterator(folder)) {
        const auto written = std::chrono::file_clock::to_sys(log.last_write_time());
        if (log.path().native().ends_with(".log.zst") && written < time) {
          unlink_quietly(log.path());
          ++count;
        }
      }
      // A build that begins its log makes the folder first, under this lock.
      const std::lock_guard lock(mutex_);
      std::error_code not_empty;
      fs::remove(folder, not_empty);
    }
    return count;
  }

private:
  [[nodiscard]] fs::path path_of_log(std::int64_t build, const char* extension) const {
    return dir_ / fmt::format("{}", build / 1000) / fmt::format("{}{}", build, extension);
  }

  [[nodiscard]] UniqueFd open_growing(std::int64_t build) const {
    const auto path = path_of_log(build, ".log");
    make_directories(path.parent_path());
    return UniqueFd(disk_call("opening " + path.string(), [&] {
      return ::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }));
  }

  static std::string read_plain(int fd, std::uint64_t offset, std::size_t limit) {
    const auto size = size_of(fd, "looking at a log");
    if (offset >= size) {
      return {};
    }
    const auto wanted = std::min<std::uint64_t>({limit, size - offset, kMostRead});
    std::string text(static_cast<std::size_t>(wanted), '\0');
    read_exactly_at(fd,
                    offset,
                    MutableBytes(reinterpret_cast<std::uint8_t*>(text.data()), text.size()),
                    "reading a log");
    return text;
  }

  fs::path dir_;
  std::mutex mutex_;
  std::map<std::int64_t, UniqueFd> growing_;
};

} // namespace

std::unique_ptr<LogStore> open_file_logs(const std::filesystem::path& dir) {
  return std::make_unique<FileLogs>(dir);
}

} // namespace nixbuild::store
