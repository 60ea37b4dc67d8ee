#include <nixbuild/server/reported_status.hpp>

namespace nixbuild::server {

namespace {

constexpr std::array<std::string_view, kReportedStatusCount> kNames = {"built",
                                                                       "build_failed",
                                                                       "cancelled",
                                                                       "timeout",
                                                                       "internal_error",
                                                                       "out_of_memory",
                                                                       "max_memory_exceeded",
                                                                       "client_disconnect",
                                                                       "client_error",
                                                                       "pending",
                                                                       "running"};

/// What Nix's statuses do not tell apart the record tells by its message alone: these are the
/// room build's own. Derivation names hold neither quotes nor blanks, so that what a client or a
/// guest puts into a message cannot be taken for one of them.
bool ran_out_of_memory(std::string_view error) {
  constexpr std::string_view before = "builder for '";
  constexpr std::string_view after = "' ran out of memory: ";
  if (!error.starts_with(before)) {
    return false;
  }
  error.remove_prefix(before.size());
  const auto quote = error.find('\'');
  return quote != std::string_view::npos && error.substr(quote).starts_with(after);
}

bool was_cancelled(std::string_view error) {
  constexpr std::string_view before = "build of ";
  constexpr std::string_view after = " was cancelled";
  if (error == "the build was cancelled while it waited") {
    return true;
  }
  return error.starts_with(before) && error.ends_with(after) &&
         error.substr(before.size()).find(' ') == error.size() - before.size() - after.size();
}

bool machine_was_lost(std::string_view error) {
  return error.starts_with("the virtual machine of '");
}

} // namespace

std::string_view name_of(ReportedStatus status) noexcept {
  return kNames[static_cast<std::size_t>(status)];
}

std::optional<ReportedStatus> reported_status_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) {
      return static_cast<ReportedStatus>(i);
    }
  }
  return std::nullopt;
}

ReportedStatus reported_status(const store::BuildRecord& record) {
  using model::BuildStatus;
  if (!record.status) {
    return record.started_us == 0 ? ReportedStatus::Pending : ReportedStatus::Running;
  }
  switch (*record.status) {
  case BuildStatus::Built:
  case BuildStatus::Substituted:
  case BuildStatus::AlreadyValid:
  case BuildStatus::ResolvesToAlreadyValid:
    return ReportedStatus::Built;
  case BuildStatus::TimedOut:
    return ReportedStatus::Timeout;
  case BuildStatus::InputRejected:
  case BuildStatus::NoSubstituters:
    return ReportedStatus::ClientError;
  case BuildStatus::PermanentFailure:
    return ran_out_of_memory(record.error) ? ReportedStatus::OutOfMemory
                                           : ReportedStatus::BuildFailed;
  case BuildStatus::TransientFailure:
    if (machine_was_lost(record.error)) {
      return ReportedStatus::InternalError;
    }
    return ran_out_of_memory(record.error) ? ReportedStatus::OutOfMemory
                                           : ReportedStatus::BuildFailed;
  case BuildStatus::OutputRejected:
  case BuildStatus::CachedFailure:
  case BuildStatus::DependencyFailed:
  case BuildStatus::LogLimitExceeded:
  case BuildStatus::NotDeterministic:
    return ReportedStatus::BuildFailed;
  case BuildStatus::MiscFailure:
    break;
  }
  return was_cancelled(record.error) ? ReportedStatus::Cancelled : ReportedStatus::InternalError;
}

} // namespace nixbuild::server
