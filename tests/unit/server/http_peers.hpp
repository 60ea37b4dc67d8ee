#pragma once

#include "http_fixture.hpp"
#include "server/http_address.hpp"
#include "server/http_tokens.hpp"
#include "support/scratch_folder.hpp"

#include <arpa/inet.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <catch2/catch.hpp>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>

namespace nixbuild::tests {

using namespace std::chrono_literals;

/// The interface on a real socket.
struct HttpTestServer : HttpWorld {
  explicit HttpTestServer(bool tcp = false,
                          server::HttpLimits limits = {},
                          server::HttpHooks hooks = {}) {
    ::signal(SIGPIPE, SIG_IGN);
    server::HttpSettings settings;
    settings.listen = tcp ? "127.0.0.1:0" : "unix:" + (scratch.path() / "http.sock").string();
    settings.tokens_file = tokens;
    settings.limits = limits;
    http =
        std::make_unique<server::HttpServer>(io.get_executor(), settings, parts, std::move(hooks));
    http->start();
    for (auto& loop : loops) {
      loop = std::jthread([this] { io.run(); });
    }
  }

  ~HttpTestServer() {
    http->stop();
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (http->connections() > 0 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(1ms);
    }
    CHECK(http->connections() == 0);
    work.reset();
    io.stop();
    for (auto& loop : loops) {
      loop.join();
    }
    http.reset();
  }

  std::string add_token(server::Permissions permissions,
                        std::string whose = "default",
                        std::int64_t expires = 0) {
    server::HttpToken token;
    token.account = std::move(whose);
    token.permissions = permissions;
    token.name = "t" + std::to_string(++made);
    token.expires = expires;
    return server::add_token(tokens, token);
  }

  void expect_connections(std::size_t count) {
    const auto end = std::chrono::steady_clock::now() + 5s;
    while (http->connections() != count && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(1ms);
    }
    CHECK(http->connections() == count);
  }

  ScratchFolder scratch;
  std::string tokens = (scratch.path() / "http-tokens").string();
  int made = 0;
  boost::asio::io_context io;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  std::unique_ptr<server::HttpServer> http;
  std::array<std::jthread, 2> loops;
};

struct HttpTestResponse {
  unsigned status = 0; ///< 0: the server ended the connection instead
  std::string head;
  std::string body;
};

/// A blocking client with a deadline on every read.
class HttpTestClient {
public:
  explicit HttpTestClient(const HttpTestServer& server, int receive_bytes = 0) {
    const auto address = server::parse_http_address(server.http->address());
    const bool is_unix = !address.unix_path.empty();
    socket_.reset(::socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (receive_bytes > 0) {
      ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    }
    if (is_unix) {
      sockaddr_un to{};
      to.sun_family = AF_UNIX;
      address.unix_path.copy(static_cast<char*>(to.sun_path), sizeof to.sun_path - 1);
      connect(&to, sizeof to);
    } else {
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(address.port);
      ::inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
      connect(&to, sizeof to);
    }
  }

  /// True when all of it went out.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) {
        return false;
      }
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
  }

  /// Reads more; false at the end of the stream.
  bool fill() {
    pollfd entry{socket_.get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, 20'000) == 1);
    char piece[16384];
    const auto count = ::recv(socket_.get(), piece, sizeof piece, 0);
    if (count > 0) {
      buffer_.append(piece, static_cast<std::size_t>(count));
    }
    return count > 0;
  }

  /// Up to and with `end`; what there is at the end of the stream.
  std::string until(std::string_view end) {
    std::size_t at = 0;
    while ((at = buffer_.find(end)) == std::string::npos) {
      if (!fill()) {
        return std::exchange(buffer_, {});
      }
    }
    return exactly(at + end.size());
  }

  std::string exactly(std::size_t count) {
    while (buffer_.size() < count && fill()) {
    }
    auto result = buffer_.substr(0, count);
    buffer_.erase(0, result.size());
    return result;
  }

  /// The next piece of a body that comes in pieces; empty for the last one.
  std::string chunk() {
    const auto line = until("\r\n");
    std::size_t size = 0;
    std::from_chars(line.data(), line.data() + line.size(), size, 16);
    auto bytes = exactly(size + 2);
    bytes.resize(std::min(size, bytes.size()));
    return bytes;
  }

  HttpTestResponse read(bool head_only = false) {
    HttpTestResponse response;
    response.head = until("\r\n\r\n");
    if (response.head.size() < 12) {
      return response;
    }
    std::from_chars(&response.head[9], &response.head[12], response.status);
    if (head_only || response.status == 100) {
      return response;
    }
    const std::string_view length = "Content-Length: ";
    if (const auto at = response.head.find(length); at != std::string::npos) {
      response.body =
          exactly(static_cast<std::size_t>(std::atol(&response.head[at + length.size()])));
    } else if (response.head.find("Transfer-Encoding: chunked") != std::string::npos) {
      for (auto piece = chunk(); !piece.empty(); piece = chunk()) {
        response.body += piece;
      }
    } else {
      while (fill()) {
      }
      response.body = std::exchange(buffer_, {});
    }
    return response;
  }

  HttpTestResponse
  get(std::string_view target, std::string_view token = "", std::string_view more = "") {
    send(request("GET", target, token, more));
    return read();
  }

  static std::string request(std::string_view method,
                             std::string_view target,
                             std::string_view token = "",
                             std::string_view more = "",
                             std::string_view body = "") {
    std::string text = std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: x\r\n";
    if (!token.empty()) {
      text += "Authorization: Bearer " + std::string(token) + "\r\n";
    }
    if (!body.empty()) {
      text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    }
    return text + std::string(more) + "\r\n" + std::string(body);
  }

  /// True when the server ends the connection and sends nothing more.
  bool ended() { return buffer_.empty() && !fill(); }

  int native() const { return socket_.get(); }

  void close() { socket_.reset(); }

private:
  void connect(const void* address, socklen_t size) {
    REQUIRE(::connect(socket_.get(), static_cast<const sockaddr*>(address), size) == 0);
  }

  UniqueFd socket_;
  std::string buffer_;
};

} // namespace nixbuild::tests
