#include "server/told_log.hpp"
#include "worker_client.hpp"

#include <catch2/catch.hpp>
#include <fmt/format.h>

namespace told_log_test {

using namespace nixbuild;
using namespace nixbuild::tests;
using server::LogHead;
using server::LogTail;

namespace {

const std::string kNotice = fmt::format("[nixbuild] {}\n", build::kEmulationNotice);

/// What is shown of a log that comes in pieces of `size` bytes.
std::string shown(const std::shared_ptr<bool>& told, const std::string& log, std::size_t size) {
  LogHead head(told);
  std::string all;
  for (std::size_t at = 0; at < log.size(); at += size) {
    all += head.take(7, log.substr(at, size));
  }
  return all + head.finish();
}

FakeBuild failing_build(const sandbox::ExecutionPlan&) {
  FakeBuild script;
  for (int i = 0; i < 40; ++i) {
    script.log.push_back({fmt::format("line {}\n", i)});
  }
  script.log.push_back({"last words"});
  script.exit.code = 3;
  return script;
}

std::size_t count_of(std::string_view text, std::string_view what) {
  std::size_t count = 0;
  for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) {
    ++count;
  }
  return count;
}

void set_options(Client& client, std::map<std::string, std::string> overrides) {
  worker::SetOptions options;
  options.max_build_jobs = 1;
  options.keep_going = true;
  options.overrides = std::move(overrides);
  reply_of<worker::EmptyReply>(client.ask(options));
}

} // namespace

TEST_CASE("log head: a log begins with its number, and emulation is told once a session",
          "[server]") {
  const std::string waiting = "[nixbuild] waiting: nothing is free\n";
  const std::string log = waiting + kNotice + "first\n" + kNotice;
  for (const std::size_t size : {1U, 3U, 17U, 1000U}) {
    CAPTURE(size);
    const auto told = std::make_shared<bool>(false);
    CHECK(shown(told, log, size) == "[nixbuild] build 7\n" + log);
    CHECK(shown(told, log, size) == "[nixbuild] build 7\n" + waiting + "first\n" + kNotice);
    CHECK(shown(told, kNotice, size) == "[nixbuild] build 7\n");
    CHECK(shown(told, "[nixbuild", size) == "[nixbuild] build 7\n[nixbuild");
  }
  LogHead nameless(std::make_shared<bool>(false));
  CHECK(nameless.take(0, "first\n") == "first\n");
}

TEST_CASE("log head: a builder that only begins like the server is not waited for",
          "[server][reject]") {
  LogHead head(std::make_shared<bool>(false));
  const std::string endless = "[nixbuild] " + std::string(100'000, 'x');
  CHECK(head.take(0, endless) == endless);
}

TEST_CASE("log tail: the last lines of the builder, and where the rest is", "[server]") {
  LogTail tail(3);
  CHECK(tail.text("/nix/store/x.drv").empty());
  tail.add("[nixbuild] no word of a builder's");
  CHECK(tail.text("/nix/store/x.drv").empty());
  for (const auto* line : {"a", "b", "", "d", "[nixbuild] the machine is kept"}) {
    tail.add(line);
  }
  CHECK(tail.text("/nix/store/x.drv") == "\nthe last 3 lines of its log:\n> b\n> \n> d"
                                         "\nfull log: ssh HOST nixbuild log /nix/store/x.drv");
  CHECK(tail.text("") == "\nthe last 3 lines of its log:\n> b\n> \n> d");
  LogTail none(0);
  none.add("a");
  CHECK(none.text("x") == "\nfull log: ssh HOST nixbuild log x");
}

TEST_CASE("log tail: takes no more memory than it says", "[server][reject]") {
  LogTail tail(1'000'000);
  for (int i = 0; i < 5000; ++i) {
    tail.add(std::string(10'000, 'x'));
  }
  const auto text = tail.text("x");
  CHECK(text.size() < LogTail::kTailBytes + 1000);
  CHECK(text.find(" …") != std::string::npos);
}

TEST_CASE("worker session: the error of a failed build has its last lines once, in order",
          "[server]") {
  PaperServer server(failing_build);
  Client client(server);
  client.hello();
  const auto answer = client.ask(build_of("made"));
  const auto result = reply_of<worker::BuildReply>(answer).result;
  CHECK(result.status == model::BuildStatus::PermanentFailure);
  std::string wanted = "failed with exit code 3\nthe last 25 lines of its log:";
  for (int i = 16; i < 40; ++i) {
    wanted += fmt::format("\n> line {}", i);
  }
  wanted += "\n> last words\nfull log: ssh HOST nixbuild log " +
            model::StoreDir().print(path_named("made.drv"));
  CHECK(result.error.ends_with(wanted));
  CHECK(answer.lines().front() == "[nixbuild] build 1");
  CHECK(answer.lines().size() == 42);
  // The record and other askers keep the reason alone.
  CHECK(count_of(server.db->build(server.account, 1)->error, "\n") == 0);
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: a failure among many tells its last lines once", "[server]") {
  PaperServer server(failing_build);
  Client client(server);
  client.hello();
  set_options(client, {{"log-lines", "2"}});
  const auto bottom = add_derivation(client, "bottom", {});
  const auto other = add_derivation(client, "other", {});
  const auto top = add_derivation(client, "top", {bottom});
  {
    const auto answer =
        client.ask(worker::BuildPathsWithResults{{all_of(top), all_of(other), all_of(other)}});
    const auto results = reply_of<worker::BuildsReply>(answer).results;
    REQUIRE(results.size() == 3);
    CHECK(results[0].reply.result.error.find("dependency") == 0);
    CHECK(results[0].reply.result.error.find('\n') == std::string::npos);
    const auto& error = results[1].reply.result.error;
    CHECK(error.find("\nthe last 2 lines of its log:\n> line 39\n> last words\nfull log: ") !=
          std::string::npos);
    CHECK(results[2].reply.result.error.find('\n') == std::string::npos);
    // That of the input is said when it fails: no result is about it.
    REQUIRE(answer.count<worker::LogText>() == 1);
    for (const auto& message : answer.log) {
      if (const auto* text = std::get_if<worker::LogText>(&message)) {
        CHECK(text->text.find("error: builder for ") == 0);
        CHECK(text->text.find("bottom.drv") != std::string::npos);
        CHECK(count_of(text->text, "> last words") == 1);
      }
    }
  }
  const auto answer = client.ask(worker::BuildPaths{{all_of(other), all_of(bottom)}});
  REQUIRE(answer.failure);
  CHECK(count_of(*answer.failure, "> last words") == 1);
  CHECK(answer.failure->find("other.drv") != std::string::npos);
  CHECK(answer.count<worker::LogText>() == 1);
  const auto refused = client.ask([] {
    worker::SetOptions options;
    options.overrides["log-lines"] = "many";
    return options;
  }());
  REQUIRE(refused.failure);
  CHECK(refused.failure->find("'log-lines' is not a number of lines") != std::string::npos);
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: a build that fails without a builder's word has no last lines",
          "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  auto request = build_of("made");
  request.derivation.platform = "vax-vms";
  const auto result = reply_of<worker::BuildReply>(client.ask(request)).result;
  CHECK(result.error.find("machine is required") != std::string::npos);
  CHECK(result.error.find("log") == std::string::npos);
  CHECK(client.end() == 0);
}

} // namespace told_log_test
