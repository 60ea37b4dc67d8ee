#pragma once

#include <nixbuild/server/reported_status.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace nixbuild::server {

/// What a session speaks.
enum class SessionProtocol : std::uint8_t { Serve, Worker, Admin };

inline constexpr std::size_t kSessionProtocols = 3;

/// What happened since the daemon's start, for GET /metrics. Counted from any thread, without
/// locks; a reader may see one count of an event before another one.
class ServerCounters {
public:
  ServerCounters() = default;
  ServerCounters(const ServerCounters&) = delete;
  ServerCounters& operator=(const ServerCounters&) = delete;

  /// Once for each build that ended; `Pending` and `Running` count nothing.
  void build_ended(ReportedStatus status) noexcept {
    if (has_ended(status)) {
      add(builds_[static_cast<std::size_t>(status)]);
    }
  }

  /// Bytes that builders wrote to their logs.
  void log_written(std::uint64_t bytes) noexcept {
    log_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  }

  /// One answer with this HTTP status; statuses outside 100 to 599 count nothing.
  void http_answered(unsigned status) noexcept {
    if (status >= kFirstStatus && status < kFirstStatus + kStatuses) {
      add(http_[status - kFirstStatus]);
    }
  }

  [[nodiscard]] std::uint64_t builds_ended(ReportedStatus status) const noexcept {
    return builds_[static_cast<std::size_t>(status)].load(std::memory_order_relaxed);
  }

  [[nodiscard]] std::uint64_t log_bytes() const noexcept {
    return log_bytes_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] std::uint64_t http_answers(unsigned status) const noexcept {
    return status >= kFirstStatus && status < kFirstStatus + kStatuses
               ? http_[status - kFirstStatus].load(std::memory_order_relaxed)
               : 0;
  }

  [[nodiscard]] std::uint64_t sessions(SessionProtocol protocol) const noexcept {
    return sessions_[static_cast<std::size_t>(protocol)].load(std::memory_order_relaxed);
  }

  [[nodiscard]] std::uint64_t open_sessions(SessionProtocol protocol) const noexcept {
    return open_[static_cast<std::size_t>(protocol)].load(std::memory_order_relaxed);
  }

private:
  friend class CountedSession;
  using Count = std::atomic<std::uint64_t>;
  static constexpr unsigned kFirstStatus = 100;
  static constexpr unsigned kStatuses = 500;

  static void add(Count& count) noexcept { count.fetch_add(1, std::memory_order_relaxed); }

  std::array<Count, kReportedStatusCount> builds_{};
  std::array<Count, kSessionProtocols> sessions_{};
  std::array<Count, kSessionProtocols> open_{};
  std::array<Count, kStatuses> http_{};
  Count log_bytes_{0};
};

/// Counts one session, as open while the object lives. The counters outlive it.
class CountedSession {
public:
  CountedSession(ServerCounters& counters, SessionProtocol protocol) noexcept
      : open_(counters.open_[static_cast<std::size_t>(protocol)]) {
    ServerCounters::add(counters.sessions_[static_cast<std::size_t>(protocol)]);
    ServerCounters::add(open_);
  }

  ~CountedSession() { open_.fetch_sub(1, std::memory_order_relaxed); }

  CountedSession(const CountedSession&) = delete;
  CountedSession& operator=(const CountedSession&) = delete;

private:
  ServerCounters::Count& open_;
};

} // namespace nixbuild::server
