#include "server/daemon_log.hpp"
#include "server/refusals.hpp"
#include "support/scratch_folder.hpp"

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace daemon_log_test {

using namespace nixbuild;
using server::DaemonLog;

namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct LogFile {
  tests::ScratchFolder scratch;
  std::string name = scratch.path() / "daemon.log";
  UniqueFd file{::open(name.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)};
};

class Lines final : public Log {
public:
  void write(LogLevel, std::string_view message) noexcept override { lines.emplace_back(message); }

  std::vector<std::string> lines;
};

} // namespace

TEST_CASE("daemon log: a message is one line of printable text, whatever is in it",
          "[server][reject]") {
  LogFile f;
  DaemonLog log(f.file.get(), f.name, {});
  log.info("a\nfake 2026-01-01T00:00:00Z error line\r\x1b[31m red \x07\xff\xc2\x9b"
           "1m é\0 end");
  log.warning(std::string(100'000, 'x'));
  const auto text = contents(f.name);
  CHECK(std::count(text.begin(), text.end(), '\n') == 2);
  CHECK(std::none_of(text.begin(), text.end(), [](unsigned char c) {
    return (c < 0x20 && c != '\n') || c == 0x7f;
  }));
  CHECK(text.find("\xc2\x9b") == std::string::npos);
  CHECK(text.find(" info a?fake ") != std::string::npos);
  CHECK(text.find("é") != std::string::npos);
  CHECK(text.size() < 5'000);
  CHECK(text.find("(95904 bytes more)") != std::string::npos);
}

TEST_CASE("daemon log: its file is turned over when it is full, and one old one is kept",
          "[server]") {
  LogFile f;
  DaemonLog::Settings settings;
  settings.most_bytes = 10'000;
  DaemonLog log(f.file.get(), f.name, settings);
  CHECK(log.is_bounded());
  for (int i = 0; i < 1000; ++i) {
    log.info("line " + std::to_string(i));
  }
  const auto now = contents(f.name);
  const auto before = contents(f.name + ".1");
  CHECK(now.size() <= 10'000);
  CHECK(before.size() <= 10'000);
  CHECK(now.ends_with("line 999\n"));
  CHECK(before.size() + now.size() > 10'000);
  CHECK(std::distance(std::filesystem::directory_iterator(f.scratch.path()), {}) == 2);
  // What others write to the descriptor goes to the new file, too.
  REQUIRE(::write(f.file.get(), "other\n", 6) == 6);
  CHECK(contents(f.name).ends_with("other\n"));
}

TEST_CASE("daemon log: what is not its own file is left as it is", "[server]") {
  LogFile f;
  DaemonLog::Settings settings;
  settings.most_bytes = 100;
  DaemonLog log(f.file.get(), f.scratch.path() / "another", settings);
  CHECK_FALSE(log.is_bounded());
  for (int i = 0; i < 100; ++i) {
    log.info("line " + std::to_string(i));
  }
  CHECK(contents(f.name).size() > 1000);
  CHECK(std::distance(std::filesystem::directory_iterator(f.scratch.path()), {}) == 1);
}

TEST_CASE("refusals: a hundred thousand of one session are three lines", "[server][reject]") {
  Lines log;
  {
    server::Refusals refusals(log);
    const Error denied(Reaction::Denied, "worker.denied", "the key may not do that");
    const Error other(Reaction::Reject, "worker.other", "no");
    for (int i = 0; i < 100'000; ++i) {
      refusals.note("AddToStore", denied);
    }
    refusals.note("BuildPaths", other);
  }
  REQUIRE(log.lines.size() == 3);
  CHECK(log.lines[0] == "AddToStore: the key may not do that [worker.denied]");
  CHECK(log.lines[1] == "BuildPaths: no [worker.other]");
  CHECK(log.lines[2] == "a session ended with 99999 more requests that failed: 99999 "
                        "[worker.denied]");
}

TEST_CASE("refusals: kinds are few, and one of each says nothing more", "[server]") {
  Lines log;
  {
    server::Refusals refusals(log);
    for (int i = 0; i < 3; ++i) {
      refusals.note("X", Error(Reaction::Denied, "code." + std::to_string(i), "no"));
    }
  }
  CHECK(log.lines.size() == 3);
  {
    server::Refusals refusals(log);
    for (int i = 0; i < 100; ++i) {
      refusals.note("X", Error(Reaction::Denied, "code." + std::to_string(i), "no"));
    }
  }
  CHECK(log.lines.size() == 3 + 20 + 1);
  CHECK(log.lines.back().ends_with("failed: 80 others"));
}

} // namespace daemon_log_test
