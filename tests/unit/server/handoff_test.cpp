#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/command_words.hpp>
#include <nixbuild/server/handoff.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <thread>

namespace handoff_test {

using namespace nixbuild;
using server::Handoff;
using server::HandoffKind;

namespace {

Handoff example() {
  Handoff handoff;
  handoff.kind = HandoffKind::Admin;
  handoff.write = true;
  handoff.limited = true;
  handoff.account = "team-a";
  handoff.key = 1'234'567'890'123;
  handoff.arguments = {"log", "12", ""};
  handoff.environment = {"NIXBUILD_MAX_CPU=3"};
  return handoff;
}

struct SocketPair {
  UniqueFd first;
  UniqueFd second;
};

SocketPair socket_pair() {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

} // namespace

TEST_CASE("hand-over: round trip", "[server][roundtrip]") {
  CHECK(server::decode_handoff(server::encode(example())) == example());
  CHECK(server::decode_handoff(server::encode(Handoff{})) == Handoff{});
}

TEST_CASE("client words: what Nix clients call, by whatever name", "[server]") {
  using server::read_client_words;
  using server::split_words;
  const auto kind_of = [](std::string_view line) {
    return read_client_words(split_words(line), true).kind;
  };
  for (const auto* line : {"nix-store --serve --write",
                           "/opt/nix/bin/nix-store --serve --write",
                           "sudo nix-store --serve --write",
                           "nix-store --serve --write --builders ''"}) {
    CAPTURE(line);
    const auto handoff = read_client_words(split_words(line), true);
    CHECK(handoff.kind == HandoffKind::Serve);
    CHECK(handoff.write);
    CHECK(handoff.limited);
  }
  CHECK_FALSE(read_client_words(split_words("nix-store --serve"), true).write);
  CHECK(kind_of("nix-daemon --stdio") == HandoffKind::Worker);
  CHECK(kind_of("nix --extra-experimental-features nix-command daemon --stdio") ==
        HandoffKind::Worker);
  CHECK(read_client_words({"--stdio"}, false).kind == HandoffKind::Worker);
  CHECK(read_client_words({"--serve", "--write"}, false).write);
  const auto admin = read_client_words(split_words("nixbuild log 7 --follow"), true);
  CHECK(admin.kind == HandoffKind::Admin);
  CHECK(admin.arguments == std::vector<std::string>{"log", "7", "--follow"});
  CHECK(read_client_words({"api", "builds"}, true).arguments.size() == 2);
}

TEST_CASE("client words: what is not understood is refused in one line", "[server][reject]") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"nix-store --serve --write --store /elsewhere", "another store cannot be chosen"},
      {"nix-daemon --stdio --store=daemon", "another store cannot be chosen"},
      {"nix-daemon --stdio --process-ops", "'--process-ops' is not understood"},
      {"nix-daemon --stdio extra", "'extra' is not understood"},
      {"nix-daemon --stdio --serve", "'--serve' is not understood"},
      {"nix-daemon --stdio --builders", "'--builders' is not understood"},
      {"nix-store --write --serve", "'--write' is not understood"},
      {"nix-env -p /nix/var/nix/profiles/system --set /nix/store/x", "cannot be run here"},
      {"nix-store -q --references /nix/store/x", "cannot be run here"},
      {"readlink -f /nix/var\x1b", "cannot be run here"},
      {"", "use it as ssh://HOST"}};
  for (const auto& [line, says] : cases) {
    CAPTURE(line);
    std::string message;
    try {
      static_cast<void>(server::read_client_words(server::split_words(line), true));
    } catch (const Error& error) {
      CHECK(error.code() == "front.command");
      message = error.message();
    }
    CHECK(message.find(says) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.find('\x1b') == std::string::npos);
    CHECK(message.size() < 500);
  }
}

TEST_CASE("hand-over: cut and changed messages give errors, never more", "[server][reject]") {
  const auto whole = server::encode(example());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CHECK_THROWS_AS(server::decode_handoff(std::string_view(whole).substr(0, size)), Error);
  }
  CHECK_THROWS_AS(server::decode_handoff(whole + "x"), Error);
  auto wrong_key = whole;
  wrong_key[wrong_key.find("1234567890123")] = '-';
  CHECK_THROWS_AS(server::decode_handoff(wrong_key), Error);
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    auto changed = whole;
    changed[random() % changed.size()] = static_cast<char>(random());
    try {
      (void)server::decode_handoff(changed);
    } catch (const Error& error) {
      CHECK(error.reaction() == Reaction::Reject);
    }
  }
}

TEST_CASE("hand-over: the three descriptors and the message arrive", "[server]") {
  auto sockets = socket_pair();
  server::send_handoff(sockets.first, example());
  const auto received = server::receive_handoff(sockets.second, 5);
  CHECK(received.handoff == example());
  for (int i = 0; i < 3; ++i) {
    struct stat sent {};

    struct stat got {};

    REQUIRE(::fstat(i, &sent) == 0);
    REQUIRE(::fstat(received.descriptors[static_cast<std::size_t>(i)].get(), &got) == 0);
    CHECK(sent.st_ino == got.st_ino);
  }
  server::send_acceptance(sockets.second);
  server::send_exit_status(sockets.second, 3);
  CHECK(server::wait_for_acceptance(sockets.first));
  CHECK(server::wait_for_exit_status(sockets.first) == 3);
}

TEST_CASE("hand-over: a peer without descriptors or with a huge length is refused",
          "[server][reject]") {
  for (const std::uint32_t size : {5U, 0xffffffffU}) {
    auto sockets = socket_pair();
    REQUIRE(::send(sockets.first.get(), &size, sizeof size, 0) == 4);
    CHECK_THROWS_AS(server::receive_handoff(sockets.second, 1), Error);
  }
}

TEST_CASE("hand-over: a daemon that dies before it took the session is told apart", "[server]") {
  auto sockets = socket_pair();
  sockets.second.reset();
  CHECK_FALSE(server::wait_for_acceptance(sockets.first));
  auto others = socket_pair();
  server::send_acceptance(others.second);
  others.second.reset();
  CHECK(server::wait_for_acceptance(others.first));
  CHECK(server::wait_for_exit_status(others.first) == 70);
}

TEST_CASE("hand-over: the socket works in a folder with a very long name", "[server]") {
  namespace fs = std::filesystem;
  std::string pattern = (fs::temp_directory_path() / "nixbuild-test-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  const fs::path deep = fs::path(pattern) / std::string(120, 'd');
  fs::create_directories(deep);
  CHECK_FALSE(server::connect_to_daemon(deep.string()));
  {
    const auto listener = server::listen_for_handoffs(deep.string());
    const auto client = server::connect_to_daemon(deep.string());
    CHECK(client);

    struct stat info {};

    REQUIRE(::stat((deep / "daemon.sock").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
  }
  CHECK_FALSE(server::connect_to_daemon(deep.string()));
  fs::remove_all(pattern);
}

TEST_CASE("state directory: what is given wins", "[server]") {
  CHECK(server::find_state_dir("/some/where") == "/some/where");
  ::setenv("NIXBUILD_STATE_DIR", "/from/environment", 1);
  CHECK(server::find_state_dir("") == "/from/environment");
  ::unsetenv("NIXBUILD_STATE_DIR");
}

TEST_CASE("hand-over: a client waits for a daemon that is just starting", "[server]") {
  const tests::ScratchFolder folder;
  const auto state = folder.path().string();
  const auto refusal = [&] {
    try {
      (void)server::reach_daemon(state, {}, false);
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("reached");
  };
  CHECK(refusal() == "daemon.not-running");
  // It takes the directory first and listens when all is open.
  const auto lock_file = state + "/daemon.lock";
  UniqueFd lock(::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(::flock(lock.get(), LOCK_EX | LOCK_NB) == 0);
  UniqueFd listener;
  std::thread starting([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    listener = server::listen_for_handoffs(state);
  });
  CHECK(refusal() == "reached");
  starting.join();
  // And for one that goes away instead.
  listener.reset();
  std::thread ending([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    lock.reset();
  });
  CHECK(refusal() == "daemon.not-running");
  ending.join();
}

} // namespace handoff_test
