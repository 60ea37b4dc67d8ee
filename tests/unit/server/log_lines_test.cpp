#include "server/log_lines.hpp"

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace log_lines_test {

using namespace nixbuild;

namespace {

std::vector<std::string> lines_of(const std::vector<std::string>& pieces) {
  std::vector<std::string> lines;
  const auto take = [&](std::string line) {
    lines.push_back(std::move(line));
  };
  server::LogLines log;
  for (const auto& piece : pieces) {
    log.feed(piece, take);
  }
  log.finish(take);
  return lines;
}

using Lines = std::vector<std::string>;

} // namespace

TEST_CASE("log lines: the cut of the bytes does not matter", "[server]") {
  const std::string text = "one\n\nthree\r\nab\rcd\nlast";
  const Lines wanted = {"one", "", "three", "cd", "last"};
  CHECK(lines_of({text}) == wanted);
  std::vector<std::string> bytes;
  for (const char byte : text) {
    bytes.emplace_back(1, byte);
  }
  CHECK(lines_of(bytes) == wanted);
}

TEST_CASE("log lines: a carriage return begins the line anew, one at the end does not",
          "[server]") {
  CHECK(lines_of({"abcdef\rghi\n"}) == Lines{"ghi"});
  CHECK(lines_of({"10%\r20%\r30%\r"}) == Lines{"30%"});
  CHECK(lines_of({"\r\n"}) == Lines{""});
}

TEST_CASE("log lines: a line without an end is cut at 4 MiB", "[server][reject]") {
  const std::size_t most = 4 * kMiB;
  const auto lines = lines_of({std::string(3 * most + 5, 'x')});
  REQUIRE(lines.size() == 4);
  CHECK(lines.front().size() == most);
  CHECK(lines.back().size() == 5);
}

TEST_CASE("control lines: phases and messages are understood, others are swallowed", "[server]") {
  const auto phase =
      server::parse_control_line(R"(@nix {"action":"setPhase","phase":"buildPhase"})");
  REQUIRE(phase);
  CHECK(std::get<server::PhaseBegun>(*phase).phase == "buildPhase");
  const auto message = server::parse_control_line(R"(@nix {"action":"msg","level":99,"msg":"hi"})");
  REQUIRE(message);
  CHECK(std::get<server::MessageFromBuilder>(*message).text == "hi");
  CHECK(std::get<server::MessageFromBuilder>(*message).level == 7);
  const auto other = server::parse_control_line(R"(@nix {"action":"start","id":1,"type":101})");
  REQUIRE(other);
  CHECK(std::holds_alternative<server::OtherControl>(*other));
}

TEST_CASE("control lines: what is none is an ordinary line", "[server][reject]") {
  CHECK_FALSE(server::parse_control_line("plain"));
  CHECK_FALSE(server::parse_control_line("@nix"));
  CHECK_FALSE(server::parse_control_line("@nix {\"action\":"));
  CHECK_FALSE(server::parse_control_line("@nix [1]"));
  for (const auto* message : {R"({})",
                              R"({"action":7})",
                              R"({"action":"setPhase"})",
                              R"({"action":"setPhase","phase":["x"]})",
                              R"({"action":"msg","msg":"hi"})",
                              R"({"action":"msg","level":"high","msg":"hi"})",
                              R"({"action":"msg","level":1})",
                              R"({"action":"start","id":1})",
                              R"({"action":"stop"})",
                              R"({"action":"result","type":101})"}) {
    CAPTURE(message);
    CHECK_FALSE(server::parse_control_line(std::string("@nix ") + message));
  }
  CHECK_FALSE(server::parse_control_line("@nix " + std::string(100'000, '[')));
}

} // namespace log_lines_test
