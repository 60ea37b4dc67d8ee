#include "log_rules.hpp"

#include <nixbuild/store/memory.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>

namespace nixbuild::store {

namespace {

class MemoryLogs final : public LogStore {
public:
  void append(std::int64_t build, ByteView bytes) override {
    const std::lock_guard lock(mutex_);
    auto& log = logs_[build];
    if (log.finished) {
      throw_log_finished(build);
    }
    log.text.append(text_of(bytes));
  }

  void finish(std::int64_t build) override {
    const std::lock_guard lock(mutex_);
    auto& log = logs_[build];
    log.finished = true;
    log.end = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  }

  std::optional<std::string>
  read(std::int64_t build, std::uint64_t offset, std::size_t limit) override {
    const std::lock_guard lock(mutex_);
    const auto found = logs_.find(build);
    if (found == logs_.end()) {
      return std::nullopt;
    }
    const auto& text = found->second.text;
    return offset >= text.size() ? std::string()
                                 : text.substr(static_cast<std::size_t>(offset), limit);
  }

  std::uint64_t size(std::int64_t build) override {
    const std::lock_guard lock(mutex_);
    const auto found = logs_.find(build);
    return found == logs_.end() || found->second.finished ? 0 : found->second.text.size();
  }

  bool finished(std::int64_t build) override {
    const std::lock_guard lock(mutex_);
    const auto found = logs_.find(build);
    return found != logs_.end() && found->second.finished;
  }

  std::size_t remove_finished_before(WallTime time) override {
    const std::lock_guard lock(mutex_);
    return std::erase_if(
        logs_, [&](const auto& entry) { return entry.second.finished && entry.second.end < time; });
  }

private:
  struct Log {
    std::string text;
    bool finished = false;
    WallTime end{};
  };

  std::mutex mutex_;
  std::map<std::int64_t, Log> logs_;
};

} // namespace

std::unique_ptr<LogStore> make_memory_logs() {
  return std::make_unique<MemoryLogs>();
}

} // namespace nixbuild::store
