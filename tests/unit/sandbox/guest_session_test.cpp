#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <catch2/catch.hpp>

#include <string>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using namespace std::chrono_literals;

namespace guest_session_test {

namespace {

constexpr std::string_view kOutputStream{"\x03\0\0\0nar\0\0\0\0", 11};

GuestJob two_outputs() {
  GuestJob job;
  job.outputs = {{"out", "x-out"}, {"dev", "x-dev"}};
  return job;
}

struct Talk {
  explicit Talk(const GuestJob& job = two_outputs()) : session(job) {}

  void say(const guest::FromGuest& message) {
    session.feed_control(bytes_of(guest::encode(message)));
  }

  /// Empty when the session took it.
  std::string refused(const guest::FromGuest& message) {
    try {
      say(message);
    } catch (const Error& error) {
      return error.code();
    }
    return {};
  }

  template <class Event>
  Event expect() {
    auto event = session.next_event();
    REQUIRE(event);
    REQUIRE(std::holds_alternative<Event>(*event));
    return std::get<Event>(*event);
  }

  void output(std::string_view bytes) {
    StringSink sink(received);
    session.feed_output(bytes_of(bytes), sink);
  }

  static guest::Exited exit_with(std::uint64_t log, GuestEnd end = GuestEnd::Exited) {
    guest::Exited exited;
    exited.exit.end = end;
    exited.exit.log_bytes = log;
    exited.exit.outputs.resize(2);
    return exited;
  }

  void until_started() {
    say(guest::Hello{guest::kProtocolVersion, 5us});
    say(guest::Started{});
    expect<GuestHello>();
    expect<GuestStarted>();
    (void)session.take_control();
  }

  void until_exited() {
    until_started();
    say(exit_with(0));
    expect<GuestExited>();
  }

  GuestSession session;
  std::string received;
};

template <class Call>
std::string code_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

} // namespace

TEST_CASE("guest session: a whole life", "[sandbox]") {
  Talk talk;
  CHECK(talk.session.take_control().empty());
  talk.say(guest::Hello{guest::kProtocolVersion, 5us});
  CHECK(talk.expect<GuestHello>().boot_time == 5us);
  CHECK(talk.session.take_control() == guest::encode(guest::Job{two_outputs()}));
  talk.say(guest::Started{});
  talk.expect<GuestStarted>();
  talk.session.feed_log(100);
  talk.say(Talk::exit_with(150));
  CHECK_FALSE(talk.session.next_event());
  CHECK_FALSE(talk.session.exited());
  talk.session.feed_log(50);
  CHECK(talk.expect<GuestExited>().exit.log_bytes == 150);
  CHECK(talk.session.exited());

  for (std::uint32_t index = 0; index < 2; ++index) {
    talk.session.send_output(index);
    CHECK(talk.session.take_control() == guest::encode(guest::SendOutput{index}));
    CHECK(talk.session.receiving_output());
    // The ports are independent: either end may come first.
    if (index == 0) {
      talk.output(kOutputStream);
      CHECK_FALSE(talk.session.next_event());
      talk.say(guest::OutputEnd{0, ""});
    } else {
      talk.say(guest::OutputEnd{1, "changed"});
      CHECK_FALSE(talk.session.next_event());
      talk.output(kOutputStream.substr(0, 5));
      talk.output(kOutputStream.substr(5));
    }
    const auto end = talk.expect<GuestOutputEnd>();
    CHECK(end.index == index);
    CHECK(end.error == (index == 0 ? "" : "changed"));
    CHECK_FALSE(talk.session.receiving_output());
  }
  CHECK(talk.received == "narnar");
  talk.session.power_off();
  CHECK(talk.session.take_control() == guest::encode(guest::PowerOff{}));
}

TEST_CASE("guest session: a terminal behind the outputs", "[sandbox]") {
  Talk talk;
  talk.until_started();
  talk.say(Talk::exit_with(0));
  talk.expect<GuestExited>();
  static_cast<void>(talk.session.take_control());
  talk.session.type({"too early", 0, 0});
  CHECK(talk.session.take_control().empty());
  CHECK(code_of([&] { talk.session.send_output(3); }) == "sandbox.protocol");
  CHECK_FALSE(talk.session.has_terminal());
  talk.session.send_output(2);
  CHECK(talk.session.has_terminal());
  CHECK(talk.session.take_control() == guest::encode(guest::SendOutput{2}));
  talk.session.type({"ls\n", 24, 80});
  CHECK(talk.session.take_control() == guest::encode(guest::Input{"ls\n", 24, 80}));
  talk.output(kOutputStream);
  talk.say(guest::OutputEnd{2, ""});
  CHECK(talk.expect<GuestOutputEnd>().index == 2);
  CHECK_FALSE(talk.session.has_terminal());
  talk.session.type({"too late", 0, 0});
  CHECK(talk.session.take_control().empty());
  // Outputs and terminals may follow.
  talk.session.send_output(0);
}

TEST_CASE("guest session: messages out of turn are refused", "[sandbox][reject]") {
  const std::string protocol = "sandbox.protocol";
  {
    Talk talk;
    CHECK(talk.refused(guest::Started{}) == protocol);
  }
  {
    Talk talk;
    CHECK(talk.refused(Talk::exit_with(0)) == protocol);
  }
  {
    Talk talk;
    CHECK(talk.refused(guest::Hello{99, 5us}) == protocol);
  }
  {
    Talk talk;
    CHECK(code_of([&] { talk.session.feed_log(1); }) == protocol);
  }
  {
    Talk talk;
    talk.until_started();
    CHECK(talk.refused(guest::Hello{guest::kProtocolVersion, 5us}) == protocol);
  }
  {
    Talk talk;
    talk.until_started();
    CHECK(talk.refused(guest::Started{}) == protocol);
  }
  {
    Talk talk;
    talk.until_started();
    CHECK(talk.refused(guest::OutputEnd{0, ""}) == protocol);
  }
  {
    Talk talk;
    talk.until_exited();
    CHECK(talk.refused(Talk::exit_with(0)) == protocol);
  }
  {
    Talk talk;
    talk.until_exited();
    CHECK(code_of([&] { talk.session.feed_log(1); }) == protocol);
  }
  {
    Talk talk;
    talk.until_exited();
    CHECK(code_of([&] { talk.output(kOutputStream); }) == protocol);
  }
  {
    Talk talk;
    talk.until_exited();
    talk.session.send_output(0);
    CHECK(talk.refused(guest::OutputEnd{1, ""}) == protocol);
  }
  {
    Talk talk;
    talk.until_exited();
    talk.session.send_output(0);
    CHECK(code_of([&] { talk.output(std::string(kOutputStream) + "x"); }) == protocol);
  }
  {
    Talk talk;
    talk.until_exited();
    talk.session.send_output(0);
    talk.say(guest::OutputEnd{0, ""});
    CHECK(talk.refused(guest::OutputEnd{0, ""}) == protocol);
  }
}

TEST_CASE("guest session: an exit is checked against job and log", "[sandbox][reject]") {
  Talk talk;
  talk.until_started();
  auto few = Talk::exit_with(0);
  few.exit.outputs.resize(1);
  CHECK(talk.refused(few) == "sandbox.protocol");

  Talk more;
  more.until_started();
  more.session.feed_log(11);
  CHECK(more.refused(Talk::exit_with(10)) == "sandbox.protocol");

  Talk late;
  late.until_started();
  late.say(Talk::exit_with(10));
  CHECK(code_of([&] { late.session.feed_log(11); }) == "sandbox.protocol");
}

TEST_CASE("guest session: only a failed setup and a probe end without a start", "[sandbox]") {
  Talk setup;
  setup.say(guest::Hello{guest::kProtocolVersion, 5us});
  setup.expect<GuestHello>();
  CHECK(setup.refused(Talk::exit_with(0)) == "sandbox.protocol");

  Talk failed;
  failed.say(guest::Hello{guest::kProtocolVersion, 5us});
  failed.expect<GuestHello>();
  failed.say(Talk::exit_with(0, GuestEnd::SetupFailed));
  CHECK(failed.expect<GuestExited>().exit.end == GuestEnd::SetupFailed);

  auto job = two_outputs();
  job.probe_only = true;
  Talk probe(job);
  probe.say(guest::Hello{guest::kProtocolVersion, 5us});
  probe.expect<GuestHello>();
  probe.say(Talk::exit_with(0));
  probe.expect<GuestExited>();
  Talk started(job);
  started.say(guest::Hello{guest::kProtocolVersion, 5us});
  CHECK(started.refused(guest::Started{}) == "sandbox.protocol");
}

TEST_CASE("guest session: a failure is the last word", "[sandbox]") {
  Talk talk;
  talk.until_started();
  talk.say(guest::Failure{"no disk"});
  CHECK(talk.expect<GuestFailure>().text == "no disk");
  // What is left in the log port may still come.
  CHECK(code_of([&] { talk.session.feed_log(10); }) == "none");
  CHECK(talk.refused(Talk::exit_with(0)) == "sandbox.protocol");
}

TEST_CASE("guest session: the host's own mistakes are errors, too", "[sandbox][reject]") {
  Talk talk;
  talk.session.power_off();
  CHECK(talk.session.take_control().empty());
  CHECK(code_of([&] { talk.session.send_output(0); }) == "sandbox.protocol");
  talk.until_exited();
  CHECK(code_of([&] { talk.session.send_output(3); }) == "sandbox.protocol");
  talk.session.send_output(1);
  CHECK(code_of([&] { talk.session.send_output(0); }) == "sandbox.protocol");
  GuestJob many;
  many.outputs.assign(guest::kMaxOutputs + 1, {"o", "x"});
  CHECK(code_of([&] { GuestSession session(many); }) == "sandbox.protocol");
}

} // namespace guest_session_test
