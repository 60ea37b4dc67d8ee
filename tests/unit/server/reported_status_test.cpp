#include <nixbuild/server/counters.hpp>
#include <nixbuild/server/reported_status.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace reported_status_test {

using namespace nixbuild;
using model::BuildStatus;
using server::ReportedStatus;

namespace {

store::BuildRecord ended(BuildStatus status, std::string error = "") {
  store::BuildRecord record;
  record.created_us = 1;
  record.started_us = 2;
  record.stopped_us = 3;
  record.status = status;
  record.error = std::move(error);
  return record;
}

} // namespace

TEST_CASE("reported status: each of Nix's statuses has its word", "[server][http]") {
  struct Case {
    BuildStatus status;
    ReportedStatus expected;
  };

  const std::vector<Case> cases = {{BuildStatus::Built, ReportedStatus::Built},
                                   {BuildStatus::Substituted, ReportedStatus::Built},
                                   {BuildStatus::AlreadyValid, ReportedStatus::Built},
                                   {BuildStatus::ResolvesToAlreadyValid, ReportedStatus::Built},
                                   {BuildStatus::PermanentFailure, ReportedStatus::BuildFailed},
                                   {BuildStatus::TransientFailure, ReportedStatus::BuildFailed},
                                   {BuildStatus::OutputRejected, ReportedStatus::BuildFailed},
                                   {BuildStatus::CachedFailure, ReportedStatus::BuildFailed},
                                   {BuildStatus::DependencyFailed, ReportedStatus::BuildFailed},
                                   {BuildStatus::LogLimitExceeded, ReportedStatus::BuildFailed},
                                   {BuildStatus::NotDeterministic, ReportedStatus::BuildFailed},
                                   {BuildStatus::InputRejected, ReportedStatus::ClientError},
                                   {BuildStatus::NoSubstituters, ReportedStatus::ClientError},
                                   {BuildStatus::TimedOut, ReportedStatus::Timeout},
                                   {BuildStatus::MiscFailure, ReportedStatus::InternalError}};
  CHECK(cases.size() == 15);
  for (const auto& one : cases) {
    INFO(model::name_of(one.status));
    CHECK(server::reported_status(ended(one.status)) == one.expected);
  }
}

TEST_CASE("reported status: a build that has not ended waits or runs", "[server][http]") {
  store::BuildRecord record;
  record.created_us = 1;
  CHECK(server::reported_status(record) == ReportedStatus::Pending);
  record.started_us = 2;
  CHECK(server::reported_status(record) == ReportedStatus::Running);
}

TEST_CASE("reported status: the room build's own messages tell what the status does not",
          "[server][http]") {
  const std::string memory = "builder for '/nix/store/x-a.drv' ran out of memory: its machine has";
  CHECK(server::reported_status(ended(BuildStatus::PermanentFailure, memory)) ==
        ReportedStatus::OutOfMemory);
  CHECK(server::reported_status(ended(BuildStatus::TransientFailure, memory)) ==
        ReportedStatus::OutOfMemory);
  CHECK(server::reported_status(
            ended(BuildStatus::TransientFailure,
                  "the virtual machine of '/nix/store/x-a.drv' did not answer for 60 seconds")) ==
        ReportedStatus::InternalError);
  CHECK(server::reported_status(
            ended(BuildStatus::MiscFailure, "build of /nix/store/x-a.drv was cancelled")) ==
        ReportedStatus::Cancelled);
  CHECK(server::reported_status(
            ended(BuildStatus::MiscFailure, "the build was cancelled while it waited")) ==
        ReportedStatus::Cancelled);
}

TEST_CASE("reported status: what a guest says is not taken for our own message",
          "[server][http][reject]") {
  for (const std::string text : {"builder for 'a.drv' failed: ' ran out of memory: ",
                                 "ran out of memory: ",
                                 "builder for 'a.drv",
                                 ""}) {
    CHECK(server::reported_status(ended(BuildStatus::PermanentFailure, text)) ==
          ReportedStatus::BuildFailed);
  }
  for (const std::string text :
       {"build of  was cancelled and more", "build of a b was cancelled", "was cancelled", ""}) {
    CHECK(server::reported_status(ended(BuildStatus::MiscFailure, text)) ==
          ReportedStatus::InternalError);
  }
}

TEST_CASE("reported status: names go there and back", "[server][http][roundtrip]") {
  for (std::size_t i = 0; i < server::kReportedStatusCount; ++i) {
    const auto status = static_cast<ReportedStatus>(i);
    CHECK(server::reported_status_named(server::name_of(status)) == status);
  }
  CHECK(server::name_of(ReportedStatus::MaxMemoryExceeded) == "max_memory_exceeded");
  CHECK_FALSE(server::reported_status_named("Built"));
  CHECK_FALSE(server::reported_status_named(""));
}

TEST_CASE("counters: sessions are open while they live, and what has no place counts nothing",
          "[server][http]") {
  server::ServerCounters counters;
  {
    const server::CountedSession one(counters, server::SessionProtocol::Worker);
    const server::CountedSession two(counters, server::SessionProtocol::Worker);
    CHECK(counters.open_sessions(server::SessionProtocol::Worker) == 2);
    CHECK(counters.open_sessions(server::SessionProtocol::Serve) == 0);
  }
  CHECK(counters.open_sessions(server::SessionProtocol::Worker) == 0);
  CHECK(counters.sessions(server::SessionProtocol::Worker) == 2);
  counters.build_ended(ReportedStatus::Built);
  counters.build_ended(ReportedStatus::Running);
  CHECK(counters.builds_ended(ReportedStatus::Built) == 1);
  CHECK(counters.builds_ended(ReportedStatus::Running) == 0);
  counters.log_written(7);
  counters.log_written(8);
  CHECK(counters.log_bytes() == 15);
  for (const unsigned status : {0U, 99U, 200U, 599U, 600U}) {
    counters.http_answered(status);
  }
  CHECK(counters.http_answers(200) == 1);
  CHECK(counters.http_answers(599) == 1);
  CHECK(counters.http_answers(600) == 0);
}

} // namespace reported_status_test
