#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace nixbuild::server {

/// How a build stands, in the words that nixbuild.net's interface uses.
enum class ReportedStatus : std::uint8_t {
  Built,
  BuildFailed,
  Cancelled,
  Timeout,
  InternalError,
  OutOfMemory,
  MaxMemoryExceeded,
  ClientDisconnect,
  ClientError,
  Pending,
  Running,
};

inline constexpr std::size_t kReportedStatusCount = 11;

/// `built`, `build_failed`, …
[[nodiscard]] NIXBUILD_API std::string_view name_of(ReportedStatus status) noexcept;
/// The status of that exact name, or nothing.
[[nodiscard]] NIXBUILD_API std::optional<ReportedStatus>
reported_status_named(std::string_view name) noexcept;

/// The one mapping from what is remembered of a build. Total.
[[nodiscard]] NIXBUILD_API ReportedStatus reported_status(const store::BuildRecord& record);

/// True unless it waits or runs.
[[nodiscard]] constexpr bool has_ended(ReportedStatus status) noexcept {
  return status != ReportedStatus::Pending && status != ReportedStatus::Running;
}

} // namespace nixbuild::server
