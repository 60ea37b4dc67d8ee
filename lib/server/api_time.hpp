#pragma once

#include <boost/json/fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nixbuild::server {

/// Microseconds since 1970 of `2026-01-31`, `2026-01-31T12:00:00Z` (up to six decimals behind the
/// seconds), or a whole number of seconds since 1970; always UTC, years 1970 to 9999. Nothing for
/// anything else.
[[nodiscard]] std::optional<std::int64_t> parse_time_us(std::string_view text) noexcept;

/// `2026-01-31`, the day in UTC. For times of years 1970 to 9999.
[[nodiscard]] std::string day_of(std::int64_t microseconds);

/// The time at which the month (UTC) of a time began. For times of years 1970 to 9999.
[[nodiscard]] std::int64_t begin_of_month(std::int64_t microseconds);

/// `iso_time_us`, or null for 0: it has not happened.
[[nodiscard]] boost::json::value time_or_null(std::int64_t microseconds);

} // namespace nixbuild::server
