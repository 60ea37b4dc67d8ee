#include "http_peers.hpp"

#include <nixbuild/base/error.hpp>

#include <sys/stat.h>

#include <random>
#include <vector>

namespace http_test {

using namespace nixbuild;
using namespace std::chrono_literals;
using model::BuildStatus;
using server::Permission;
using Client = tests::HttpTestClient;
using Response = tests::HttpTestResponse;
using Server = tests::HttpTestServer;

namespace {

std::string code_of(const Response& response) {
  const auto at = response.body.find(R"("code":")");
  return at == std::string::npos
             ? ""
             : response.body.substr(at + 8, response.body.find('"', at + 8) - at - 8);
}

server::HttpLimits quick_limits() {
  server::HttpLimits limits;
  limits.log_poll = 10ms;
  return limits;
}

} // namespace

TEST_CASE("http: the owner of the Unix socket needs no token", "[server][http]") {
  Server server;
  const auto id = server.add_build(1000, BuildStatus::Built);
  server.logs->append(id, bytes_of("hello\n"));
  server.logs->finish(id);
  Client client(server);
  const auto list = client.get("/builds");
  CHECK(list.status == 200);
  CHECK(list.head.find("Content-Type: application/json\r\n") != std::string::npos);
  CHECK(list.head.find("Cache-Control: no-store\r\n") != std::string::npos);
  CHECK(list.head.find("X-Content-Type-Options: nosniff\r\n") != std::string::npos);
  CHECK(list.body.find("\"build_status\":\"built\"") != std::string::npos);
  const auto log = client.get("/builds/1/log");
  CHECK(log.status == 200);
  CHECK(log.head.find("Content-Type: text/plain") != std::string::npos);
  CHECK(log.body == "hello\n");
  CHECK(client.get("/builds/1/log?offset=2").body == "llo\n");
  CHECK(client.get("/builds/1/log?offset=99").body.empty());
  const auto metrics = client.get("/metrics").body;
  CHECK(metrics.find("nixbuild_http_requests_total{code=\"200\"} 4\n") != std::string::npos);
  CHECK(metrics.find("nixbuild_http_connections 1\n") != std::string::npos);
  CHECK(client.get("/healthz").body == "ok\n");
}

TEST_CASE("http: a token narrows even the owner's connection", "[server][http]") {
  Server server;
  server.add_build(1000, BuildStatus::Built);
  const auto token = server.add_token({Permission::BuildRead}, "other");
  Client client(server);
  CHECK(client.get("/builds/1").status == 200);
  CHECK(client.get("/builds/1", token).status == 404);
  CHECK(client.get("/builds/1", "nxb_wrong").status == 401);
}

TEST_CASE("http: over TCP nothing but /healthz goes without a token", "[server][http][reject]") {
  Server server(true);
  server.add_build(1000, BuildStatus::Built);
  const auto token = server.add_token({Permission::BuildRead});
  const auto expired = server.add_token({Permission::BuildRead}, "default", 1'700'000'000);
  const auto other = server.add_token({Permission::BuildRead}, "other");
  Client client(server);
  CHECK(client.get("/healthz").status == 200);
  const auto refused = client.get("/builds");
  CHECK(refused.status == 401);
  CHECK(code_of(refused) == "http.token");
  CHECK(refused.head.find("WWW-Authenticate: Bearer realm=\"nixbuild\"\r\n") != std::string::npos);
  CHECK(client.get("/builds", token).status == 200);
  CHECK(client.get("/builds", expired).status == 401);
  CHECK(client.get("/builds", token + "0").status == 401);
  CHECK(client.get("/builds", token.substr(0, token.size() - 1)).status == 401);
  CHECK(client.get("/builds/1", token).status == 200);
  CHECK(client.get("/builds/1", other).status == 404);
  CHECK(client.get("/builds/1/log", other).body == client.get("/builds/2/log", other).body);
  for (const std::string& header :
       {"Authorization: Basic " + token,
        "Authorization: " + token,
        std::string("Authorization: Bearer"),
        std::string("Authorization: "),
        "Authorization: Bearer " + token + "\r\nAuthorization: Bearer " + token}) {
    INFO(header);
    CHECK(client.get("/builds", "", header + "\r\n").status == 401);
  }
  CHECK(client.get("/builds", "", "authorization: bearer " + token + "\r\n").status == 200);
}

TEST_CASE("http: a token that is made or taken away counts from the next request on",
          "[server][http]") {
  Server server(true);
  Client client(server);
  const auto token = server.add_token({Permission::BuildRead});
  CHECK(client.get("/builds", token).status == 200);
  CHECK(server::remove_token(server.tokens, "default", "t1"));
  CHECK(client.get("/builds", token).status == 401);
}

TEST_CASE("http: a followed log comes as it is written and ends with the build", "[server][http]") {
  Server server(false, quick_limits());
  const auto id = server.add_build(1000, std::nullopt);
  server.logs->append(id, bytes_of("one\n"));
  Client client(server);
  client.send(Client::request("GET", "/builds/1/log?follow=1"));
  CHECK(client.read(true).status == 200);
  CHECK(client.chunk() == "one\n");
  server.logs->append(id, bytes_of("two\n"));
  CHECK(client.chunk() == "two\n");
  std::this_thread::sleep_for(50ms);
  const std::string big(300'000, 'x');
  server.logs->append(id, bytes_of(big));
  std::string got;
  while (got.size() < big.size()) {
    const auto piece = client.chunk();
    REQUIRE(!piece.empty());
    CHECK(piece.size() <= 64 * kKiB);
    got += piece;
  }
  CHECK(got == big);
  server.logs->append(id, bytes_of("end\n"));
  server.logs->finish(id);
  CHECK(client.chunk() == "end\n");
  CHECK(client.chunk().empty());
  // The connection goes on.
  CHECK(client.get("/healthz").status == 200);
  CHECK(client.get("/builds/1/log?follow=1&offset=8").body == big + "end\n");
}

TEST_CASE("http: a log without follow ends where the log ends now", "[server][http]") {
  Server server;
  const auto id = server.add_build(1000, std::nullopt);
  Client client(server);
  CHECK(client.get("/builds/1/log").body.empty());
  server.logs->append(id, bytes_of("one\n"));
  CHECK(client.get("/builds/1/log").body == "one\n");
}

TEST_CASE("http: a version 1.0 client gets a log without pieces and the end behind it",
          "[server][http]") {
  Server server;
  const auto id = server.add_build(1000, BuildStatus::Built);
  server.logs->append(id, bytes_of("hello\n"));
  Client client(server);
  client.send("GET /builds/1/log HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const auto response = client.read();
  CHECK(response.status == 200);
  CHECK(response.head.find("chunked") == std::string::npos);
  CHECK(response.body == "hello\n");
}

TEST_CASE("http: following ends when the client leaves", "[server][http]") {
  Server server(false, quick_limits());
  server.add_build(1000, std::nullopt);
  Client client(server);
  client.send(Client::request("GET", "/builds/1/log?follow=1"));
  CHECK(client.read(true).status == 200);
  server.expect_connections(1);
  client.close();
  server.expect_connections(0);
}

TEST_CASE("http: following ends when the token is taken away", "[server][http]") {
  Server server(true, quick_limits());
  const auto id = server.add_build(1000, std::nullopt);
  const auto token = server.add_token({Permission::BuildRead});
  Client client(server);
  client.send(Client::request("GET", "/builds/1/log?follow=1", token));
  CHECK(client.read(true).status == 200);
  CHECK(server::remove_token(server.tokens, "default", "t1"));
  std::this_thread::sleep_for(100ms);
  server.logs->append(id, bytes_of("secret"));
  CHECK(client.chunk().empty());
}

TEST_CASE("http: a client that does not take its log is left behind", "[server][http]") {
  auto limits = quick_limits();
  limits.stalled = 200ms;
  Server server(false, limits);
  const auto id = server.add_build(1000, std::nullopt);
  server.logs->append(id, bytes_of(std::string(8 * kMiB, 'x')));
  Client client(server, 4096);
  client.send(Client::request("GET", "/builds/1/log?follow=1"));
  server.expect_connections(1);
  server.expect_connections(0);
}

TEST_CASE("http: requests sent at once are answered in order", "[server][http]") {
  Server server;
  server.add_build(1000, BuildStatus::Built);
  server.logs->append(1, bytes_of("log"));
  Client client(server);
  std::string all;
  for (int i = 0; i < 20; ++i) {
    all += Client::request("GET", "/builds/" + std::to_string(i + 1));
    all += Client::request("GET", "/builds/1/log");
  }
  client.send(all);
  for (int i = 0; i < 20; ++i) {
    CHECK(client.read().status == (i == 0 ? 200U : 404U));
    CHECK(client.read().body == "log");
  }
}

TEST_CASE("http: the connection is kept or ended as the client wants", "[server][http]") {
  Server server;
  Client keeping(server);
  CHECK(keeping.get("/healthz").status == 200);
  CHECK(keeping.get("/healthz", "", "Connection: close\r\n").status == 200);
  CHECK(keeping.ended());
  Client old(server);
  old.send("GET /healthz HTTP/1.0\r\n\r\n");
  CHECK(old.read().status == 200);
  CHECK(old.ended());
}

TEST_CASE("http: a head has no body", "[server][http]") {
  Server server;
  server.add_build(1000, BuildStatus::Built);
  server.logs->append(1, bytes_of("log"));
  Client client(server);
  client.send(Client::request("HEAD", "/healthz"));
  const auto head = client.read(true);
  CHECK(head.status == 200);
  CHECK(head.head.find("Content-Length: 3\r\n") != std::string::npos);
  client.send(Client::request("HEAD", "/builds/1/log?follow=1"));
  CHECK(client.read(true).status == 200);
  CHECK(client.get("/healthz").body == "ok\n");
}

TEST_CASE("http: bodies are taken, whole and in pieces", "[server][http]") {
  std::string got;
  server::HttpHooks hooks;
  hooks.set_setting = [&](auto, std::string_view, std::string_view value) {
    got = value;
  };
  hooks.unset_setting = [](auto, auto) {
  };
  Server server(false, {}, std::move(hooks));
  Client client(server);
  client.send(Client::request("PUT", "/settings/a", "", "", R"({"value":"whole"})"));
  CHECK(client.read().status == 200);
  CHECK(got == "whole");
  client.send(Client::request("PUT", "/settings/a", "", "Transfer-Encoding: chunked\r\n") +
              "8\r\n{\"value\"\r\n9\r\n:\"parts\"}\r\n0\r\n\r\n");
  CHECK(client.read().status == 200);
  CHECK(got == "parts");
  client.send("PUT /settings/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
              "Content-Length: 15\r\n\r\n");
  CHECK(client.read().status == 100);
  client.send(R"({"value":"wait"})");
  CHECK(client.read().status == 400); // one byte is missing
  client.send(Client::request("DELETE", "/settings/a"));
  CHECK(client.read().status == 400); // and stood before this
}

TEST_CASE("http: a header that is too long is refused", "[server][http][reject]") {
  Server server;
  for (const std::size_t size : {std::size_t{17} * 1024, std::size_t{1024} * 1024}) {
    Client client(server);
    client.send(Client::request("GET", "/healthz", "", "X: " + std::string(size, 'a') + "\r\n"));
    const auto response = client.read();
    CHECK(response.status == 431);
    CHECK(code_of(response) == "http.header-limit");
    CHECK(client.ended());
  }
  Client client(server);
  CHECK(client.get("/healthz", "", "X: " + std::string(15 * 1024, 'a') + "\r\n").status == 200);
  CHECK(client.get("/" + std::string(10'000, 'a')).status == 400);
}

TEST_CASE("http: a body that is too long is refused", "[server][http][reject]") {
  Server server;
  const std::string body(64 * 1024 + 1, 'a');
  Client whole(server);
  whole.send(Client::request("PUT", "/settings/a", "", "", body));
  const auto response = whole.read();
  CHECK(response.status == 413);
  CHECK(code_of(response) == "http.body-limit");
  CHECK(whole.ended());
  Client pieces(server);
  pieces.send(Client::request("PUT", "/settings/a", "", "Transfer-Encoding: chunked\r\n") +
              "10001\r\n" + body + "\r\n0\r\n\r\n");
  CHECK(pieces.read().status == 413);
  Client fits(server);
  fits.send(Client::request("PUT", "/settings/a", "", "", body.substr(1)));
  CHECK(fits.read().status == 501);
}

TEST_CASE("http: the body of a stranger is not read", "[server][http][reject]") {
  Server server(true);
  Client client(server);
  client.send(Client::request("PUT", "/settings/a", "", "Content-Length: 60000\r\n"));
  CHECK(client.read().status == 401);
  CHECK(client.ended());
}

TEST_CASE("http: a client that is slow to ask is cut off, an idle one is let go",
          "[server][http][reject]") {
  server::HttpLimits limits;
  limits.request = 150ms;
  limits.idle = 150ms;
  Server server(false, limits);
  Client slow(server);
  // Bytes that come one by one do not make the time longer.
  for (int i = 0; i < 10 && slow.send("G"); ++i) {
    std::this_thread::sleep_for(20ms);
  }
  CHECK(slow.ended());
  Client body(server);
  body.send(Client::request("PUT", "/settings/a", "", "Content-Length: 10\r\n") + "abc");
  CHECK(body.ended());
  Client idle(server);
  CHECK(idle.ended());
  Client after_one(server);
  CHECK(after_one.get("/healthz").status == 200);
  CHECK(after_one.ended());
}

TEST_CASE("http: one connection too many is answered 503, and a place that is free is given again",
          "[server][http][reject]") {
  Server server;
  std::vector<Client> clients;
  for (int i = 0; i < 200; ++i) {
    clients.emplace_back(server);
  }
  CHECK(clients.back().get("/healthz").status == 200);
  server.expect_connections(200);
  Client more(server);
  more.send(Client::request("GET", "/healthz"));
  const auto response = more.read();
  CHECK(response.status == 503);
  CHECK(code_of(response) == "http.connections");
  CHECK(clients.front().get("/healthz").status == 200);
  clients.pop_back();
  server.expect_connections(199);
  Client again(server);
  CHECK(again.get("/healthz").status == 200);
}

TEST_CASE("http: what is no request is refused and ends the connection", "[server][http][reject]") {
  Server server;
  for (const std::string text :
       {"hello\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "GET /healthz HTTP/2.0\r\n\r\n",
        "GET  /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT /settings/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
        "\x16\x03\x01\x02\x01\x01\x01\xfc\x03\x03\r\n\r\n"}) {
    INFO(text);
    Client client(server);
    client.send(text);
    const auto response = client.read();
    CHECK(response.status == 400);
    CHECK(code_of(response) == "http.malformed");
    CHECK(client.ended());
  }
  Client client(server);
  client.send("GET /heal");
  client.close();
  server.expect_connections(0);
}

TEST_CASE("http: a body whose end others see elsewhere is never a next request",
          "[server][http][reject]") {
  Server server;
  server.add_build(1000, BuildStatus::Built);
  const std::string hidden = "GET /builds HTTP/1.1\r\n\r\n";
  for (const std::string coding : {"xchunked",
                                   "identity",
                                   "chunked, identity",
                                   "identity, chunked",
                                   "chunked, chunked",
                                   "\"chunked\"",
                                   "gzip, chunked",
                                   "chunked;q=1",
                                   "chunked,",
                                   "",
                                   "x"}) {
    INFO(coding);
    Client client(server);
    client.send("PUT /settings/a HTTP/1.1\r\nTransfer-Encoding: " + coding + "\r\n\r\n" + hidden);
    const auto response = client.read();
    CHECK((response.status == 501 || response.status == 400));
    CHECK(client.ended());
  }
  Client unknown(server);
  unknown.send("GET /healthz HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n");
  const auto refused = unknown.read();
  CHECK(refused.status == 501);
  CHECK(code_of(refused) == "http.transfer-coding");
  CHECK(unknown.ended());
  for (const std::string head : {"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                                 "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                                 "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                                 "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
                                 "Content-Length: 3\r\nContent-Length: 4\r\n",
                                 "Transfer-Encoding:\r\n chunked\r\n",
                                 "X: a\r\n b\r\n",
                                 "X: a\r\n\tb\r\n",
                                 "X : a\r\n"}) {
    INFO(head);
    Client client(server);
    client.send("PUT /settings/a HTTP/1.1\r\n" + head + "\r\n" + hidden);
    const auto response = client.read();
    CHECK((response.status == 501 || response.status == 400));
    CHECK(client.ended());
  }
  Client old(server);
  old.send("PUT /settings/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + hidden);
  CHECK(old.read().status == 400);
  CHECK(old.ended());
  // And the one that is known, however it is written and in whatever pieces it comes.
  Client client(server);
  for (const char* piece : {"PUT /settings/a HTTP/1.1\r\nTransfer-En",
                            "coding: Chunked\r\n",
                            "\r\n",
                            "1\r\na\r",
                            "\n0\r\n\r\n"}) {
    client.send(piece);
    std::this_thread::sleep_for(5ms);
  }
  CHECK(client.read().status != 400);
  CHECK(client.get("/builds").status == 200);
}

TEST_CASE("http: a daemon whose own loops fail is not well", "[server][http]") {
  server::HttpHooks hooks;
  std::vector<server::LoopReport> loops(2);
  loops[0].name = "tick";
  loops[0].age = 400ms;
  loops[0].turns = 7;
  loops[1].name = "sync";
  loops[1].age = 61s;
  hooks.loops = [&loops] {
    return loops;
  };
  Server server(false, {}, hooks);
  Client client(server);
  CHECK(client.get("/healthz").status == 200);
  CHECK(client.get("/healthz").body == "ok\ntick 0.4 s ago\nsync 61.0 s ago\n");
  loops[1].failures = 5;
  loops[1].failed_again = 3;
  loops[1].last_error = "/secret/place is full";
  const auto failing = client.get("/healthz");
  CHECK(failing.status == 503);
  CHECK(failing.body == "failing\ntick 0.4 s ago\nsync 61.0 s ago, failed 3 times since\n");
  loops[1].failed_again = 0;
  loops[1].late = true;
  CHECK(client.get("/healthz").body == "failing\ntick 0.4 s ago\nsync 61.0 s ago, late\n");
  const auto metrics = client.get("/metrics").body;
  for (const char* line : {"nixbuild_loop_age_seconds{loop=\"sync\"} 61.000\n",
                           "nixbuild_loop_turns_total{loop=\"tick\"} 7\n",
                           "nixbuild_loop_failures_total{loop=\"sync\"} 5\n",
                           "nixbuild_loop_well{loop=\"tick\"} 1\n",
                           "nixbuild_loop_well{loop=\"sync\"} 0\n"}) {
    CHECK(metrics.find(line) != std::string::npos);
  }
}

TEST_CASE("http: the name of the Unix socket is for its owner alone", "[server][http]") {
  const auto before = ::umask(0);
  Server server;
  ::umask(before);

  struct stat info {};

  REQUIRE(::stat(server.http->address().substr(5).c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
}

TEST_CASE("http: any bytes get an answer or the end, and the server goes on",
          "[server][http][property]") {
  Server server;
  std::mt19937 random(3);
  const std::string letters = "GET /builds HTTP/1.1\r\n:\0\xff";
  for (int round = 0; round < 150; ++round) {
    Client client(server);
    std::string noise = round % 2 == 0 ? "GET /builds?" : "";
    for (auto i = random() % 300; i > 0; --i) {
      noise += letters[random() % letters.size()];
    }
    client.send(noise);
    ::shutdown(client.native(), SHUT_WR);
    while (client.fill()) {
    }
  }
  Client client(server);
  CHECK(client.get("/healthz").status == 200);
}

TEST_CASE("http: what the configuration asks for is refused where it is not safe",
          "[server][http][reject]") {
  tests::HttpWorld world;
  boost::asio::io_context io;
  const tests::ScratchFolder scratch;
  const auto code = [&](server::HttpSettings settings) -> std::string {
    try {
      const server::HttpServer http(io.get_executor(), std::move(settings), world.parts, {});
    } catch (const Error& error) {
      return error.code();
    }
    return "";
  };
  server::HttpSettings settings;
  settings.tokens_file = (scratch.path() / "tokens").string();
  settings.listen = "nonsense";
  CHECK(code(settings) == "http.address");
  settings.listen = "0.0.0.0:0";
  CHECK(code(settings) == "http.remote");
  settings.allow_remote = true;
  CHECK(code(settings).empty());
  settings.listen = "unix:" + (scratch.path() / "missing/http.sock").string();
  CHECK(code(settings) == "http.listen");
  settings.listen = "127.0.0.1:0";
  static_cast<void>(server::add_token(settings.tokens_file, [] {
    server::HttpToken token;
    token.account = "default";
    token.name = "x";
    return token;
  }()));
  ::chmod(settings.tokens_file.c_str(), 0644);
  CHECK(code(settings) == "http.tokens");
}

TEST_CASE("http: stopping ends idle, asking and following connections", "[server][http]") {
  Server server(false, quick_limits());
  server.add_build(1000, std::nullopt);
  Client idle(server);
  Client asking(server);
  Client following(server);
  CHECK(idle.get("/healthz").status == 200);
  asking.send("GET /heal");
  following.send(Client::request("GET", "/builds/1/log?follow=1"));
  CHECK(following.read(true).status == 200);
  server.expect_connections(3);
  server.http->stop();
  server.expect_connections(0);
  CHECK(idle.ended());
}

} // namespace http_test
