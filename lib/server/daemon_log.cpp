#include "daemon_log.hpp"

#include "admin_text.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <utility>

namespace nixbuild::server {

namespace {

bool same_file(int descriptor, const struct stat& other) noexcept {
  struct stat info {};

  return ::fstat(descriptor, &info) == 0 && info.st_dev == other.st_dev &&
         info.st_ino == other.st_ino;
}

std::string_view level_name(LogLevel level) noexcept {
  constexpr std::array<std::string_view, 4> names = {"debug", "info", "warning", "error"};
  return names.at(static_cast<std::size_t>(level));
}

std::string line_of(LogLevel level, std::string_view message, std::size_t most) {
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::array<char, 32> time{};
  std::strftime(time.data(), time.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  const auto cut = message.size() > most ? message.size() - most : 0;
  auto text = printable(message.substr(0, most));
  if (cut > 0) {
    text += fmt::format(" … ({} bytes more)", cut);
  }
  return fmt::format("{} {} {}\n", time.data(), level_name(level), text);
}

} // namespace

DaemonLog::DaemonLog(int descriptor, std::string file, Settings settings)
    : descriptor_(descriptor), file_(std::move(file)), settings_(settings) {
  struct stat info {};

  own_ = !file_.empty() && ::lstat(file_.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         same_file(descriptor_, info);
  size_ = own_ ? static_cast<std::uint64_t>(info.st_size) : 0;
}

void DaemonLog::write(LogLevel level, std::string_view message) noexcept {
  if (level == LogLevel::Debug && !settings_.verbose) {
    return;
  }
  try {
    const auto line = line_of(level, message, settings_.most_of_message);
    const std::lock_guard lock(mutex_);
    if (own_ && size_ > 0 && size_ + line.size() > settings_.most_bytes) {
      turn_over();
    }
    std::string_view rest = line;
    while (!rest.empty()) {
      const auto count = ::write(descriptor_, rest.data(), rest.size());
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count <= 0) {
        break; // a full disk: nobody can be told
      }
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
    size_ += line.size() - rest.size();
  } catch (...) {
    // There is no memory for a line.
  }
}

/// Where anything fails, the file goes on to grow: better than no log at all.
void DaemonLog::turn_over() noexcept {
  struct stat before {};

  if (::fstat(descriptor_, &before) != 0 || ::rename(file_.c_str(), (file_ + ".1").c_str()) != 0) {
    size_ = 0; // not before another file's worth
    return;
  }
  const UniqueFd next(
      ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (next) {
    const bool output = descriptor_ != STDOUT_FILENO && same_file(STDOUT_FILENO, before);
    ::dup2(next.get(), descriptor_);
    if (output) {
      ::dup2(next.get(), STDOUT_FILENO);
    }
  }
  size_ = 0;
}

} // namespace nixbuild::server
