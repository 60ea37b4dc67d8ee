#include "admin_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace nixbuild::server {

namespace {

constexpr std::int64_t kMicroseconds = 1'000'000;

std::string broken_down(std::int64_t seconds, char between, std::string_view end) {
  const std::time_t time = seconds;
  std::tm parts{};
  if (::gmtime_r(&time, &parts) == nullptr) {
    return "-";
  }
  return fmt::format("{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}",
                     parts.tm_year + 1900,
                     parts.tm_mon + 1,
                     parts.tm_mday,
                     between,
                     parts.tm_hour,
                     parts.tm_min,
                     parts.tm_sec,
                     end);
}

/// Bytes of the UTF-8 character that `text` begins with; 0: none that may be shown.
std::size_t character_length(std::string_view text) noexcept {
  const auto first = static_cast<unsigned char>(text.front());
  if (first < 0x80) {
    return first >= 0x20 && first != 0x7f ? 1 : 0;
  }
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) {
    return 0;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {
      return 0;
    }
  }
  // U+0080 to U+009F are control characters as well.
  return first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0 ? 0 : length;
}

} // namespace

std::string printable(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const auto length = character_length(text);
    result.append(length == 0 ? std::string_view("?") : text.substr(0, length));
    text.remove_prefix(std::max<std::size_t>(1, length));
  }
  return result;
}

std::size_t shown_width(std::string_view text) noexcept {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

void TextTable::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (auto& cell : cells) {
    cell = printable(cell);
  }
  rows_.push_back(std::move(cells));
}

std::string TextTable::text() const {
  std::vector<std::string> head;
  for (const auto& column : columns_) {
    head.push_back(column.title);
  }
  std::vector<std::size_t> widths(columns_.size());
  const auto widen = [&](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      widths[i] = std::max(widths[i], shown_width(cells[i]));
    }
  };
  widen(head);
  std::for_each(rows_.begin(), rows_.end(), widen);
  std::string result;
  const auto print = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const std::string blanks(widths[i] - shown_width(cells[i]), ' ');
      line += i == 0 ? "" : "  ";
      line += columns_[i].align == Align::Right ? blanks + cells[i] : cells[i] + blanks;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result += line + "\n";
  };
  print(head);
  std::for_each(rows_.begin(), rows_.end(), print);
  return result;
}

std::string human_size(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 6> units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto size = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (size >= 1024 && unit + 1 < units.size()) {
    size /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", size, units[unit]);
}

std::string human_duration(std::int64_t microseconds) {
  const auto seconds = microseconds / kMicroseconds;
  if (seconds < 10) {
    return fmt::format("{:.2f} s",
                       static_cast<double>(microseconds) / static_cast<double>(kMicroseconds));
  }
  if (seconds < 60) {
    return fmt::format("{} s", seconds);
  }
  if (seconds < 3600) {
    return fmt::format("{} m {:02} s", seconds / 60, seconds % 60);
  }
  return fmt::format("{} h {:02} m", seconds / 3600, seconds / 60 % 60);
}

std::string human_time(std::int64_t seconds) {
  return seconds == 0 ? "-" : broken_down(seconds, ' ', "");
}

std::string iso_time(std::int64_t seconds) {
  return broken_down(seconds, 'T', "Z");
}

std::string iso_time_us(std::int64_t microseconds) {
  return broken_down(
      microseconds / kMicroseconds, 'T', fmt::format(".{:06}Z", microseconds % kMicroseconds));
}

} // namespace nixbuild::server
