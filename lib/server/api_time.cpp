#include "api_time.hpp"

#include "admin_text.hpp"

#include <boost/json/value.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace nixbuild::server {

namespace {

namespace chrono = std::chrono;

constexpr std::int64_t kMicro = 1'000'000;
constexpr std::int64_t kLastSecond = 253'402'300'799; // 9999-12-31T23:59:59Z

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Takes exactly `count` digits off the front.
std::optional<std::int64_t> take_digits(std::string_view& text, std::size_t count) {
  if (text.size() < count || !std::all_of(text.begin(), text.begin() + count, is_digit)) {
    return std::nullopt;
  }
  std::int64_t number = 0;
  for (const char c : text.substr(0, count)) {
    number = number * 10 + (c - '0');
  }
  text.remove_prefix(count);
  return number;
}

bool take(std::string_view& text, char wanted) {
  if (text.empty() || text.front() != wanted) {
    return false;
  }
  text.remove_prefix(1);
  return true;
}

/// Days since 1970 of `2026-01-31` at the front.
std::optional<std::int64_t> take_date(std::string_view& text) {
  const auto year = take_digits(text, 4);
  if (!year || *year < 1970 || !take(text, '-')) {
    return std::nullopt;
  }
  const auto month = take_digits(text, 2);
  if (!month || !take(text, '-')) {
    return std::nullopt;
  }
  const auto day = take_digits(text, 2);
  if (!day) {
    return std::nullopt;
  }
  const chrono::year_month_day date(chrono::year(static_cast<int>(*year)),
                                    chrono::month(static_cast<unsigned>(*month)),
                                    chrono::day(static_cast<unsigned>(*day)));
  if (!date.ok()) {
    return std::nullopt;
  }
  return chrono::sys_days(date).time_since_epoch().count();
}

/// Microseconds of `12:00:00.5Z`, which is all that is left.
std::optional<std::int64_t> parse_clock(std::string_view text) {
  const auto hour = take_digits(text, 2);
  if (!hour || *hour > 23 || !take(text, ':')) {
    return std::nullopt;
  }
  const auto minute = take_digits(text, 2);
  if (!minute || *minute > 59 || !take(text, ':')) {
    return std::nullopt;
  }
  const auto second = take_digits(text, 2);
  if (!second || *second > 59) {
    return std::nullopt;
  }
  std::int64_t fraction = 0;
  if (take(text, '.')) {
    constexpr std::size_t most = 6;
    std::size_t count = 0;
    while (count < text.size() && is_digit(text[count])) {
      ++count;
    }
    if (count == 0 || count > most) {
      return std::nullopt;
    }
    fraction = *take_digits(text, count);
    for (; count < most; ++count) {
      fraction *= 10;
    }
  }
  if (text != "Z") {
    return std::nullopt;
  }
  return ((*hour * 60 + *minute) * 60 + *second) * kMicro + fraction;
}

} // namespace

std::optional<std::int64_t> parse_time_us(std::string_view text) noexcept {
  constexpr std::size_t most_digits = 12;
  if (!text.empty() && text.size() <= most_digits &&
      std::all_of(text.begin(), text.end(), is_digit)) {
    const auto seconds = *take_digits(text, text.size());
    return seconds <= kLastSecond ? std::optional(seconds * kMicro) : std::nullopt;
  }
  const auto days = take_date(text);
  if (!days) {
    return std::nullopt;
  }
  const auto midnight = *days * 86'400 * kMicro;
  if (text.empty()) {
    return midnight;
  }
  if (!take(text, 'T')) {
    return std::nullopt;
  }
  const auto clock = parse_clock(text);
  return clock ? std::optional(midnight + *clock) : std::nullopt;
}

namespace {

chrono::year_month_day date_of(std::int64_t microseconds) {
  return chrono::floor<chrono::days>(chrono::sys_time<chrono::microseconds>(
      chrono::microseconds(std::clamp(microseconds, std::int64_t{0}, kLastSecond * kMicro))));
}

} // namespace

std::int64_t begin_of_month(std::int64_t microseconds) {
  const auto date = date_of(microseconds);
  const chrono::sys_days first(date.year() / date.month() / 1);
  return chrono::microseconds(first.time_since_epoch()).count();
}

boost::json::value time_or_null(std::int64_t microseconds) {
  return microseconds == 0 ? boost::json::value(nullptr)
                           : boost::json::value(iso_time_us(microseconds));
}

std::string day_of(std::int64_t microseconds) {
  const auto date = date_of(microseconds);
  return fmt::format("{:04}-{:02}-{:02}",
                     static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()),
                     static_cast<unsigned>(date.day()));
}

} // namespace nixbuild::server
