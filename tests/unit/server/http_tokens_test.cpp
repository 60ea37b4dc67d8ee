#include "server/api_target.hpp"
#include "server/api_time.hpp"
#include "server/http_address.hpp"
#include "server/http_tokens.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/config.hpp>

#include <catch2/catch.hpp>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <random>
#include <thread>

namespace http_tokens_test {

using namespace nixbuild;
using server::HttpToken;
using server::Permission;

namespace {

template <class Call>
std::string code_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

HttpToken token_named(std::string name, std::string account = "default") {
  HttpToken token;
  token.account = std::move(account);
  token.name = std::move(name);
  token.permissions = {Permission::BuildRead};
  return token;
}

const std::string kDigest(64, 'a');

void write_file(const std::string& name, const std::string& text, mode_t mode = 0600) {
  std::ofstream(name, std::ios::binary | std::ios::trunc) << text;
  ::chmod(name.c_str(), mode);
}

class CountingLog final : public Log {
public:
  void write(LogLevel level, std::string_view) noexcept override {
    if (level == LogLevel::Error || level == LogLevel::Warning) {
      ++count;
    }
  }

  std::atomic<int> count{0};
};

} // namespace

TEST_CASE("tokens: a line goes there and back", "[server][http][roundtrip]") {
  auto token = token_named("ci.main_2", "team-a");
  token.digest = server::digest_of_token("nxb_x");
  token.permissions = {Permission::BuildRead, Permission::BuildWrite, Permission::AccountWrite};
  token.expires = 1'800'000'000;
  auto nothing = token_named("nothing", "*");
  nothing.permissions = {};
  const auto list = server::parse_tokens("# a comment\n\n" + server::print_token(token) + "  \n" +
                                         server::print_token(nothing));
  CHECK(list.complaints.empty());
  CHECK(list.tokens == std::vector{token, nothing});
}

TEST_CASE("tokens: a line that is not understood gives no rights and is complained of",
          "[server][http][reject]") {
  const std::vector<std::string> lines = {
      "x",
      kDigest,
      kDigest + " default build:read -",
      kDigest + " default build:read - name more",
      kDigest.substr(1) + " default build:read - name",
      kDigest + "aa default build:read - name",
      std::string(64, 'g') + " default build:read - name",
      kDigest + " Default build:read - name",
      kDigest + " -default build:read - name",
      kDigest + " " + std::string(64, 'a') + " build:read - name",
      kDigest + " default build:burn - name",
      kDigest + " default build:read never name",
      kDigest + " default build:read 0 name",
      kDigest + " default build:read 2026-13-01 name",
      kDigest + " default build:read - n/ame",
      kDigest + " default build:read - " + std::string(65, 'n'),
      kDigest + " default build:read - name" + std::string(600, ' '),
      std::string("\0\xff\x1b[2J", 6)};
  for (const auto& line : lines) {
    INFO(line);
    const auto list = server::parse_tokens(line);
    CHECK(list.tokens.empty());
    REQUIRE(list.complaints.size() == 1);
    CHECK(list.complaints[0].starts_with("line 1: "));
    CHECK(list.complaints[0].find('\x1b') == std::string::npos);
  }
  std::string many;
  for (const auto& line : lines) {
    many += line + "\n" + line + "\n";
  }
  const auto list = server::parse_tokens(many + kDigest + " default build:read - good\n");
  CHECK(list.tokens.size() == 1);
  CHECK(list.complaints.size() == 20);
}

TEST_CASE("tokens: random bytes never give a token, and broken lines never throw",
          "[server][http][property]") {
  std::mt19937 random(7);
  const std::string good = kDigest + " default build:read,store:read 2030-01-01T00:00:00Z name\n";
  REQUIRE(server::parse_tokens(good).tokens.size() == 1);
  for (int round = 0; round < 3000; ++round) {
    std::string noise(random() % 200, '\0');
    for (auto& c : noise) {
      c = static_cast<char>(random());
    }
    CHECK(server::parse_tokens(noise).tokens.empty());
    auto broken = good;
    broken[random() % 64] = static_cast<char>('g' + random() % 10);
    CHECK(server::parse_tokens(broken).tokens.empty());
  }
}

TEST_CASE("tokens: more lines than are taken give no more tokens", "[server][http][reject]") {
  std::string text;
  for (std::size_t i = 0; i < server::kMostTokens + 5; ++i) {
    text += kDigest + " default build:read - name\n";
  }
  const auto list = server::parse_tokens(text);
  CHECK(list.tokens.size() == server::kMostTokens);
  CHECK(list.complaints.size() == 5);
}

TEST_CASE("tokens: the secret is long, stands nowhere, and is found by its digest",
          "[server][http]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  NullLog log;
  server::TokenBook book(file, log);
  const auto first = server::add_token(file, token_named("one"));
  const auto second = server::add_token(file, token_named("two"));
  CHECK(first != second);
  CHECK(first.size() == 4 + 64);
  CHECK(first.starts_with(server::kTokenPrefix));

  struct stat status {};

  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777U) == 0600);
  std::ifstream in(file);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  CHECK(text.find(first.substr(4)) == std::string::npos);

  const auto found = book.find(server::digest_of_token(first), 0);
  REQUIRE(found);
  CHECK(found->name == "one");
  CHECK_FALSE(book.find(server::digest_of_token(first + "0"), 0));
  CHECK_FALSE(book.find(server::digest_of_token(""), 0));

  CHECK(server::remove_token(file, "default", "one"));
  CHECK_FALSE(server::remove_token(file, "default", "one"));
  CHECK_FALSE(server::remove_token(file, "other", "two"));
  CHECK_FALSE(book.find(server::digest_of_token(first), 0));
  CHECK(book.find(server::digest_of_token(second), 0));
}

TEST_CASE("tokens: one that has expired is not found", "[server][http]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  auto token = token_named("short");
  token.expires = 2000;
  const auto digest = server::digest_of_token(server::add_token(file, token));
  NullLog log;
  server::TokenBook book(file, log);
  CHECK(book.find(digest, 1999));
  CHECK_FALSE(book.find(digest, 2000));
}

TEST_CASE("tokens: names are kept apart by account, and go with it", "[server][http]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  write_file(file, "# kept\nnonsense");
  static_cast<void>(server::add_token(file, token_named("ci", "a")));
  static_cast<void>(server::add_token(file, token_named("ci", "b")));
  static_cast<void>(server::add_token(file, token_named("other", "a")));
  CHECK(code_of([&] { static_cast<void>(server::add_token(file, token_named("ci", "a"))); }) ==
        "http.token-exists");
  for (const std::string name : {"", "a b", "a/b", "\n"}) {
    CHECK(code_of([&] { static_cast<void>(server::add_token(file, token_named(name))); }) ==
          "http.token-name");
  }
  CHECK(code_of([&] { static_cast<void>(server::add_token(file, token_named("x", "A"))); }) ==
        "http.token-name");
  CHECK(server::remove_account_tokens(file, "a") == 2);
  const auto list = server::read_tokens(file);
  REQUIRE(list.tokens.size() == 1);
  CHECK(list.tokens[0].account == "b");
  CHECK(list.complaints ==
        std::vector<std::string>{"line 2: needs five words: digest, account, permissions, expiry, "
                                 "name"});
}

TEST_CASE("tokens: two programs that add at the same time lose nothing", "[server][http]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&file, i] {
        for (int j = 0; j < 10; ++j) {
          static_cast<void>(
              server::add_token(file, token_named(std::to_string(i) + "." + std::to_string(j))));
        }
      });
    }
  }
  CHECK(server::read_tokens(file).tokens.size() == 40);
}

TEST_CASE("tokens: no more are made than the file may hold", "[server][http][reject]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  std::string text;
  for (std::size_t i = 0; i < server::kMostTokens; ++i) {
    text += kDigest + " default build:read - n" + std::to_string(i) + "\n";
  }
  write_file(file, text);
  CHECK(code_of([&] { static_cast<void>(server::add_token(file, token_named("x"))); }) ==
        "http.token-limit");
}

TEST_CASE("tokens: a file that others may read or that is too large is refused",
          "[server][http][reject]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  const auto good = kDigest + " default build:read - name\n";
  for (const mode_t mode : {0640U, 0604U, 0620U, 0601U}) {
    write_file(file, good, mode);
    CHECK(code_of([&] { static_cast<void>(server::read_tokens(file)); }) == "http.tokens");
  }
  write_file(file, std::string(server::kTokenFileBytes + 1, '#'));
  CHECK(code_of([&] { static_cast<void>(server::read_tokens(file)); }) == "http.tokens");
  CHECK(code_of([&] { static_cast<void>(server::read_tokens(scratch.path().string())); }) ==
        "http.tokens");
  CHECK(server::read_tokens((scratch.path() / "missing").string()).tokens.empty());
}

TEST_CASE("tokens: a file that became readable to others has no tokens until it is put right",
          "[server][http]") {
  const tests::ScratchFolder scratch;
  const auto file = (scratch.path() / "tokens").string();
  const auto digest = server::digest_of_token(server::add_token(file, token_named("one")));
  CountingLog log;
  server::TokenBook book(file, log);
  CHECK(book.find(digest, 0));
  ::chmod(file.c_str(), 0644);
  CHECK_FALSE(book.find(digest, 0));
  CHECK_FALSE(book.find(digest, 0));
  CHECK(log.count == 1);
  ::chmod(file.c_str(), 0600);
  CHECK(book.find(digest, 0));
  std::filesystem::remove(file);
  CHECK_FALSE(book.find(digest, 0));
}

TEST_CASE("times: days, instants and seconds are read, nothing else is", "[server][http]") {
  using server::parse_time_us;
  CHECK(parse_time_us("0") == 0);
  CHECK(parse_time_us("1700000000") == 1'700'000'000'000'000);
  CHECK(parse_time_us("1970-01-02") == 86'400'000'000);
  CHECK(parse_time_us("2023-11-14T22:13:20Z") == 1'700'000'000'000'000);
  CHECK(parse_time_us("2023-11-14T22:13:20.5Z") == 1'700'000'000'500'000);
  CHECK(parse_time_us("2023-11-14T22:13:20.000001Z") == 1'700'000'000'000'001);
  CHECK(parse_time_us("2024-02-29"));
  CHECK(parse_time_us("9999-12-31T23:59:59Z"));
  for (const std::string text : {"",
                                 "-1",
                                 "+1",
                                 " 1",
                                 "1e9",
                                 "9999999999999",
                                 "999999999999",
                                 "1969-12-31",
                                 "2023-02-29",
                                 "2023-13-01",
                                 "2023-00-01",
                                 "2023-1-01",
                                 "10000-01-01",
                                 "2023-11-14T",
                                 "2023-11-14 22:13:20Z",
                                 "2023-11-14T22:13:20",
                                 "2023-11-14T22:13:20+01:00",
                                 "2023-11-14T24:00:00Z",
                                 "2023-11-14T22:60:00Z",
                                 "2023-11-14T22:13:60Z",
                                 "2023-11-14T22:13:20.Z",
                                 "2023-11-14T22:13:20.1234567Z",
                                 "2023-11-14T22:13:20Zx"}) {
    INFO(text);
    CHECK_FALSE(parse_time_us(text));
  }
  CHECK(server::day_of(1'700'000'000'000'000) == "2023-11-14");
  CHECK(server::day_of(-5) == "1970-01-01");
  CHECK(server::begin_of_month(*server::parse_time_us("2026-11-25T10:00:00.5Z")) ==
        *server::parse_time_us("2026-11-01"));
  CHECK(server::begin_of_month(*server::parse_time_us("2024-02-29")) ==
        *server::parse_time_us("2024-02-01"));
  CHECK(server::begin_of_month(-5) == 0);
}

TEST_CASE("targets: path and parameters are decoded, each parameter is taken once",
          "[server][http]") {
  auto target = server::parse_target("/builds/1%37/log?follow=1&offset=20&tags=a%3Ab,c");
  CHECK(target.segments == std::vector<std::string>{"builds", "17", "log"});
  CHECK(target.query.take_flag("follow"));
  CHECK(target.query.take_number("offset", 0, 100) == 20U);
  CHECK(code_of([&] { target.query.expect_empty(); }) == "http.query");
  CHECK(target.query.take("tags") == "a:b,c");
  CHECK_FALSE(target.query.take("tags"));
  target.query.expect_empty();
  CHECK(server::parse_target("/").segments.empty());
  CHECK(server::split_list(",a,,b:c,") == std::vector<std::string_view>{"a", "b:c"});
}

TEST_CASE("targets: what is no path with a query is refused", "[server][http][reject]") {
  using server::parse_target;
  for (const std::string text : {"",
                                 "*",
                                 "builds",
                                 "http://host/builds",
                                 "/builds?x=%",
                                 "/builds?x=%zz",
                                 "/a b",
                                 "/a/b/c/d/e/f/g/h/i"}) {
    INFO(text);
    CHECK(code_of([&] { static_cast<void>(parse_target(text)); }) == "http.target");
  }
  CHECK(code_of([&] {
          static_cast<void>(parse_target("/" + std::string(server::kTargetBytes, 'a')));
        }) == "http.target");
  CHECK(code_of([&] { static_cast<void>(parse_target("/builds?a=1&a=2")); }) == "http.query");
  std::string many = "/builds?";
  for (int i = 0; i < 40; ++i) {
    many += "p" + std::to_string(i) + "&";
  }
  CHECK(code_of([&] { static_cast<void>(parse_target(many)); }) == "http.query");
}

TEST_CASE("targets: any bytes give a target or a refusal", "[server][http][property]") {
  std::mt19937 random(11);
  const std::string letters = "/?&=%aF0+;:#.,[]\\\"<>\x01\xff ";
  for (int round = 0; round < 20'000; ++round) {
    std::string text = "/builds?";
    for (auto i = random() % 40; i > 0; --i) {
      text += letters[random() % letters.size()];
    }
    const auto code = code_of([&] { static_cast<void>(server::parse_target(text)); });
    CHECK((code.empty() || code == "http.target" || code == "http.query"));
  }
}

TEST_CASE("queries: a value that does not fit is refused with what would",
          "[server][http][reject]") {
  for (const std::string value :
       {"", "-1", "0", "101", "1x", "99999999999999999999", "0x1", "1.0"}) {
    server::Query query;
    query.add("limit", value);
    INFO(value);
    CHECK(code_of([&] { static_cast<void>(query.take_number("limit", 1, 100)); }) == "http.query");
  }
  for (const std::string value : {"", "true", "2", "01"}) {
    server::Query query;
    query.add("follow", value);
    CHECK(code_of([&] { static_cast<void>(query.take_flag("follow")); }) == "http.query");
  }
  server::Query query;
  query.add("from", "yesterday");
  CHECK(code_of([&] { static_cast<void>(query.take_time("from")); }) == "http.query");
}

TEST_CASE("addresses: what is configured is told apart and printed again", "[server][http]") {
  using server::parse_http_address;
  for (const std::string text : {"unix:/run/nixbuild/http.sock",
                                 "127.0.0.1:8080",
                                 "127.1.2.3:0",
                                 "[::1]:65535",
                                 "[::ffff:127.0.0.1]:80"}) {
    INFO(text);
    CHECK(parse_http_address(text).loopback);
    CHECK(server::print(parse_http_address(text)) == text);
  }
  for (const std::string text :
       {"0.0.0.0:80", "192.168.1.1:80", "[::]:80", "[2001:db8::1]:80", "[::ffff:10.0.0.1]:80"}) {
    INFO(text);
    CHECK_FALSE(parse_http_address(text).loopback);
  }
  for (const std::string text : {"",
                                 "8080",
                                 ":8080",
                                 "localhost:8080",
                                 "127.0.0.1",
                                 "127.0.0.1:",
                                 "127.0.0.1:65536",
                                 "127.0.0.1:-1",
                                 "127.0.0.1:80x",
                                 "127.1:80",
                                 "::1:80",
                                 "[::1]",
                                 "[127.0.0.1]:80",
                                 "unix:",
                                 "unix:relative",
                                 "unix:/folder/"}) {
    INFO(text);
    CHECK(code_of([&] { static_cast<void>(parse_http_address(text)); }) == "http.address");
  }
  CHECK(code_of([] { static_cast<void>(parse_http_address("unix:/" + std::string(120, 'a'))); }) ==
        "http.address");
}

TEST_CASE("addresses: a socket left behind is replaced, one in use and a file are not",
          "[server][http]") {
  const tests::ScratchFolder scratch;
  const auto path = (scratch.path() / "http.sock").string();
  auto address = server::parse_http_address("unix:" + path);
  {
    const auto first = server::listen_http(address);

    struct stat status {};

    REQUIRE(::stat(path.c_str(), &status) == 0);
    CHECK((status.st_mode & 0777U) == 0600);
    CHECK(code_of([&] { static_cast<void>(server::listen_http(address)); }) == "http.listen");
  }
  CHECK(server::listen_http(address));
  write_file(path + ".file", "");
  auto file = server::parse_http_address("unix:" + path + ".file");
  CHECK(code_of([&] { static_cast<void>(server::listen_http(file)); }) == "http.listen");
  auto tcp = server::parse_http_address("127.0.0.1:0");
  const auto listening = server::listen_http(tcp);
  CHECK(tcp.port != 0);
  auto again = tcp;
  CHECK(code_of([&] { static_cast<void>(server::listen_http(again)); }) == "http.listen");
}

TEST_CASE("configuration: the section http", "[server][http]") {
  const auto config = server::parse_config(
      "[http]\nlisten = \"127.0.0.1:80\"\nallow-remote = true\ntokens = \"/t\"\n", "c.toml");
  CHECK(config.http_listen == "127.0.0.1:80");
  CHECK(config.http_allow_remote);
  CHECK(config.http_tokens == "/t");
  CHECK(server::parse_config("", "c.toml").http_listen.empty());
  CHECK(code_of([] {
          static_cast<void>(server::parse_config("[http]\nallow-remote = 1\n", "c"));
        }) == "config.value");
}

} // namespace http_tokens_test
