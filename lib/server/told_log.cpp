#include "told_log.hpp"

#include <nixbuild/build/builder.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace {

/// An own line is short; a builder that only begins one like it is not waited for.
constexpr std::size_t kLongestOwnLine = 16 * kKiB;
constexpr std::size_t kLongestTailLine = 4 * kKiB;

} // namespace

std::string full_log(std::string_view derivation) {
  return derivation.empty() ? std::string()
                            : fmt::format("\nfull log: ssh HOST nixbuild log {}", derivation);
}

LogHead::LogHead(std::shared_ptr<bool> told) : told_(std::move(told)) {}

std::string LogHead::take(std::int64_t build, std::string bytes) {
  std::string shown;
  if (!std::exchange(begun_, true) && build != 0) {
    shown = fmt::format("{}build {}\n", kOwnLine, build);
  }
  if (passed_) {
    return shown + bytes;
  }
  held_ += bytes;
  while (!passed_ && !held_.empty()) {
    if (!held_.starts_with(kOwnLine)) {
      passed_ = !kOwnLine.starts_with(held_);
      break;
    }
    const auto end = held_.find('\n');
    if (end == std::string::npos) {
      passed_ = held_.size() > kLongestOwnLine;
      break;
    }
    const auto line = std::string_view(held_).substr(kOwnLine.size(), end - kOwnLine.size());
    const bool notice = line == build::kEmulationNotice;
    if (!notice || !std::exchange(*told_, true)) {
      shown.append(held_, 0, end + 1);
    }
    held_.erase(0, end + 1);
  }
  return passed_ ? shown + finish() : shown;
}

std::string LogHead::finish() {
  return std::exchange(held_, std::string());
}

LogTail::LogTail(std::size_t lines) : most_(std::min(lines, kMostLines)) {}

void LogTail::add(std::string_view line) {
  if (line.starts_with(kOwnLine)) {
    return;
  }
  any_ = true;
  const bool cut = line.size() > kLongestTailLine;
  lines_.emplace_back(line.substr(0, kLongestTailLine));
  lines_.back() += cut ? " …" : "";
  bytes_ += lines_.back().size();
  while (lines_.size() > most_ || bytes_ > kTailBytes) {
    bytes_ -= lines_.front().size();
    lines_.pop_front();
  }
}

std::string LogTail::text(std::string_view derivation) const {
  if (!any_) {
    return {};
  }
  std::string text;
  if (!lines_.empty()) {
    text += lines_.size() == 1 ? "\nthe last line of its log:"
                               : fmt::format("\nthe last {} lines of its log:", lines_.size());
    for (const auto& line : lines_) {
      text += "\n> " + line;
    }
  }
  return text + full_log(derivation);
}

} // namespace nixbuild::server
