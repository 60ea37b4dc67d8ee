#include "http_fixture.hpp"
#include "paper_server.hpp"
#include "server/session_times.hpp"

#include <catch2/catch.hpp>

namespace session_times_test {

using namespace nixbuild;
using namespace nixbuild::server;
using namespace nixbuild::tests;

namespace {

constexpr std::int64_t kSecond = 1'000'000;

/// A session at whose beginning it is 100 s.
struct TimedSession {
  HttpTestClock clock;
  std::optional<SessionTimes> times;

  TimedSession() {
    clock.now = 100;
    times.emplace(clock);
  }

  std::int64_t at(std::int64_t second) {
    clock.now = second;
    return second * kSecond;
  }
};

store::TimeSpan span(std::int64_t from, std::int64_t to) {
  return {from * kSecond, to * kSecond};
}

} // namespace

TEST_CASE("session times: a build gets what came before it", "[server]") {
  TimedSession session;
  auto& times = *session.times;
  session.at(101);
  times.greeted();
  auto began = session.at(102);
  session.at(103);
  times.asked(began);
  began = session.at(104);
  session.at(106);
  times.uploaded(began);
  session.at(107);
  times.asked(session.at(107));
  const store::SessionSpans wanted{span(100, 101), span(102, 107), span(104, 106), {}};
  CHECK(times.before_build() == wanted);
  CHECK(times.before_build() == wanted); // of the same graph
  began = session.at(120);
  session.at(121);
  times.uploaded(began);
  const store::SessionSpans next{{}, {}, span(120, 121), {}};
  CHECK(times.before_build() == next);
}

TEST_CASE("session times: outputs that are sent belong to their build, others to none",
          "[server]") {
  TimedSession session;
  auto& times = *session.times;
  model::BuildResult result;
  result.outputs.emplace("out", model::Realisation{path_named("made"), {}});
  result.outputs.emplace("doc", model::Realisation{path_named("made-doc"), {}});
  times.built(7, result);
  times.built(0, result); // valid before: no record
  times.sent(path_named("elsewhere"), session.at(200));
  CHECK(times.take_sent().empty());
  auto began = session.at(201);
  session.at(202);
  times.sent(path_named("made"), began);
  began = session.at(203);
  session.at(205);
  times.sent(path_named("made-doc"), began);
  const auto sent = times.take_sent();
  REQUIRE(sent.size() == 1);
  CHECK(sent.at(7) == span(201, 205));
  CHECK(times.take_sent().empty());
}

} // namespace session_times_test
