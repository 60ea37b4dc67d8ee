#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// How listings look to people: columns, sizes, times. All text made here is safe for a terminal.
namespace nixbuild::server {

/// Rows under a head line, columns two blanks apart. Cells are made printable.
class TextTable {
public:
  enum class Align : std::uint8_t { Left, Right };

  struct Column {
    std::string title;
    Align align = Align::Left;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// As many cells as there are columns.
  void add(std::vector<std::string> cells);

  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }

  [[nodiscard]] std::string text() const;

private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// Control characters and bytes that are not UTF-8 become `?`.
[[nodiscard]] std::string printable(std::string_view text);
/// Characters a terminal shows: code points of UTF-8.
[[nodiscard]] std::size_t shown_width(std::string_view text) noexcept;

/// `17 B`, `1.2 MiB`.
[[nodiscard]] std::string human_size(std::uint64_t bytes);
/// `0.12 s`, `59 s`, `1 m 02 s`, `3 h 05 m`.
[[nodiscard]] std::string human_duration(std::int64_t microseconds);
/// `2026-01-31 12:00:00` in UTC; `-` for 0.
[[nodiscard]] std::string human_time(std::int64_t seconds);
/// `2026-01-31T12:00:00Z`.
[[nodiscard]] std::string iso_time(std::int64_t seconds);
/// `2026-01-31T12:00:00.123456Z`.
[[nodiscard]] std::string iso_time_us(std::int64_t microseconds);

} // namespace nixbuild::server
