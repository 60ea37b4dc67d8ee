#include "http_fetch.hpp"

#include "fetch_target.hpp"
#include "netrc.hpp"
#include "resolve_host.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/encoding.hpp>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

namespace nixbuild::builtin {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using ErrorCode = beast::error_code;

namespace {

constexpr std::chrono::seconds kConnectTime{60};
constexpr std::chrono::seconds kSilence{300};
constexpr int kRedirects = 10;
constexpr std::uint32_t kMaxHeader = 64 * kKiB;
constexpr std::size_t kFetchPiece = 128 * kKiB;
constexpr std::size_t kMaxNetrc = kMiB;

[[noreturn]] void try_again(std::string message) {
  throw FetchFailure{std::move(message), true};
}

[[noreturn]] void give_up(std::string message) {
  throw FetchFailure{std::move(message), false};
}

void check(const ErrorCode& error, std::string_view doing) {
  if (error == beast::error::timeout) {
    try_again(fmt::format("{}: no answer within the time limit", doing));
  }
  if (error) {
    try_again(fmt::format("{}: {}", doing, error.message()));
  }
}

std::string basic(const std::string& credentials) {
  return "Basic " + base64_encode(bytes_of(credentials));
}

std::string text_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxNetrc, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

/// Another server's failure today may be its success tomorrow; a refusal stays one.
bool worth_another_try(unsigned status) {
  return status == 408 || status == 429 || (status >= 500 && status != 501 && status != 505);
}

bool is_redirect(unsigned status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/// One connection, and on it one request.
class Exchange {
public:
  Exchange(const Target& target, const Call& call) : target_(target), call_(call), stream_(loop_) {}

  /// The body goes to `body`; a redirect's address comes back instead.
  std::optional<std::string> run(ByteSink& body) {
    const auto proxy = proxy_for(target_, call_);
    if (proxy.empty()) {
      connect(target_.host, target_.port);
    } else {
      // `host:port` alone is a proxy, too.
      proxy_ = parse_target(proxy.find("://") == std::string::npos ? "http://" + proxy : proxy);
      if (proxy_->tls) {
        give_up("proxies are spoken to by http only");
      }
      connect(proxy_->host, proxy_->port);
    }
    if (!target_.tls) {
      return ask(stream_, body);
    }
    if (proxy_) {
      open_tunnel();
    }
    asio::ssl::context context(asio::ssl::context::tls_client);
    const auto certificates = call_.setting("certificates");
    ErrorCode error;
    context.load_verify_file(certificates, error);
    if (error) {
      give_up(fmt::format("no certificates to check servers by in '{}' (setting 'certificates' in "
                          "section [sandbox])",
                          certificates));
    }
    beast::ssl_stream<beast::tcp_stream&> secure(stream_, context);
    shake_hands(secure);
    return ask(secure, body);
  }

  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }

private:
  /// Runs one asynchronous operation to its end.
  template <class Start>
  ErrorCode complete(std::chrono::seconds limit, Start&& start) {
    ErrorCode result;
    stream_.expires_after(limit);
    start([&result](const ErrorCode& error, auto&&...) { result = error; });
    loop_.restart();
    loop_.run();
    return result;
  }

  void connect(const std::string& host, const std::string& port) {
    const auto addresses = resolve_host(host, port);
    const auto error = complete(
        kConnectTime, [&](auto done) { stream_.async_connect(addresses, std::move(done)); });
    check(error, fmt::format("connecting to {}:{}", host, port));
  }

  void authorize(http::request<http::empty_body>& request) const {
    auto credentials = target_.credentials;
    if (const auto netrc = call_.setting("netrc"); credentials.empty() && !netrc.empty()) {
      credentials = credentials_for(target_.host, text_of_file(netrc)).value_or("");
    }
    if (!credentials.empty()) {
      request.set(http::field::authorization, basic(credentials));
    }
  }

  void authorize_to_proxy(http::request<http::empty_body>& request) const {
    if (!proxy_->credentials.empty()) {
      request.set(http::field::proxy_authorization, basic(proxy_->credentials));
    }
  }

  [[nodiscard]] std::string authority() const {
    return std::string(target_.url.encoded_host()) + ":" + target_.port;
  }

  void open_tunnel() {
    http::request<http::empty_body> request(http::verb::connect, authority(), 11);
    request.set(http::field::host, authority());
    authorize_to_proxy(request);
    check(complete(kSilence,
                   [&](auto done) { http::async_write(stream_, request, std::move(done)); }),
          "asking the proxy");
    beast::flat_buffer buffer(kMaxHeader);
    http::response_parser<http::empty_body> answer;
    answer.header_limit(kMaxHeader);
    answer.skip(true);
    check(complete(kSilence,
                   [&](auto done) {
                     http::async_read_header(stream_, buffer, answer, std::move(done));
                   }),
          "the proxy's answer");
    if (answer.get().result() != http::status::ok) {
      const auto status = answer.get().result_int();
      throw FetchFailure{fmt::format("the proxy refuses with HTTP error {}", status),
                         worth_another_try(status)};
    }
  }

  void shake_hands(beast::ssl_stream<beast::tcp_stream&>& secure) {
    ErrorCode address;
    asio::ip::make_address(target_.host, address);
    // What SSL_set_tlsext_host_name is, without its cast.
    std::string name = target_.host;
    if (address && SSL_ctrl(secure.native_handle(),
                            SSL_CTRL_SET_TLSEXT_HOSTNAME,
                            TLSEXT_NAMETYPE_host_name,
                            name.data()) != 1) {
      give_up("the host's name cannot be told to its server");
    }
    secure.set_verify_mode(asio::ssl::verify_peer);
    secure.set_verify_callback(asio::ssl::host_name_verification(target_.host));
    const auto error = complete(kConnectTime, [&](auto done) {
      secure.async_handshake(asio::ssl::stream_base::client, std::move(done));
    });
    if (const auto verdict = SSL_get_verify_result(secure.native_handle());
        error && verdict != X509_V_OK) {
      give_up(fmt::format("the certificate of '{}' cannot be trusted: {}",
                          target_.host,
                          X509_verify_cert_error_string(verdict)));
    }
    check(error, fmt::format("TLS with '{}'", target_.host));
  }

  template <class Stream>
  std::optional<std::string> ask(Stream& stream, ByteSink& body) {
    const bool whole = proxy_ && !target_.tls;
    http::request<http::empty_body> request(
        http::verb::get,
        whole ? fmt::format("http://{}{}", authority(), target_.path) : target_.path,
        11);
    const bool usual = target_.port == (target_.tls ? "443" : "80");
    request.set(http::field::host, usual ? std::string(target_.url.encoded_host()) : authority());
    request.set(http::field::user_agent, "nixbuild/0.1");
    request.set(http::field::accept, "*/*");
    request.set(http::field::connection, "close");
    authorize(request);
    if (whole) {
      authorize_to_proxy(request);
    }
    check(
        complete(kSilence, [&](auto done) { http::async_write(stream, request, std::move(done)); }),
        "asking the server");
    beast::flat_buffer buffer(kFetchPiece);
    http::response_parser<http::buffer_body> answer;
    answer.header_limit(kMaxHeader);
    answer.body_limit(boost::none);
    check(complete(
              kSilence,
              [&](auto done) { http::async_read_header(stream, buffer, answer, std::move(done)); }),
          "the server's answer");
    const auto status = answer.get().result_int();
    if (is_redirect(status) && answer.get().count(http::field::location) > 0) {
      return std::string(answer.get()[http::field::location]);
    }
    if (status < 200 || status > 299) {
      throw FetchFailure{fmt::format("HTTP error {}", status), worth_another_try(status)};
    }
    take_body(stream, buffer, answer, body);
    return std::nullopt;
  }

  template <class Stream>
  void take_body(Stream& stream,
                 beast::flat_buffer& buffer,
                 http::response_parser<http::buffer_body>& answer,
                 ByteSink& body) {
    Bytes piece(kFetchPiece);
    while (!answer.is_done()) {
      answer.get().body().data = piece.data();
      answer.get().body().size = piece.size();
      auto error = complete(
          kSilence, [&](auto done) { http::async_read(stream, buffer, answer, std::move(done)); });
      const auto got = piece.size() - answer.get().body().size;
      body.write(ByteView(piece).first(got));
      received_ += got;
      if (error == http::error::need_buffer) {
        error = {};
      }
      check(error, fmt::format("after {} bytes", received_));
    }
  }

  const Target& target_;
  const Call& call_;
  asio::io_context loop_;
  beast::tcp_stream stream_;
  std::optional<Target> proxy_;
  std::uint64_t received_ = 0;
};

/// `file:///…`: an input of the build. What else lies in its machine is not for outputs, the file
/// of credentials above all; a link in the store leads to it no better than a URL does.
std::uint64_t copy_file(const std::string& path, const Call& call, ByteSink& body) {
  const auto store = call.attributes.contains("NIX_STORE") ? call.attribute("NIX_STORE")
                                                           : std::string("/nix/store");
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error).string();
  if (!error && !real.starts_with(store + "/")) {
    give_up(fmt::format("'{}' is not in the store", path));
  }
  const UniqueFd file(error ? -1 : ::open(real.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) {
    give_up(fmt::format("cannot open '{}'", path));
  }
  Bytes piece(kFetchPiece);
  std::uint64_t total = 0;
  for (;;) {
    const auto got = static_cast<std::size_t>(
        system_call(kCode, path, [&] { return ::read(file.get(), piece.data(), piece.size()); }));
    if (got == 0) {
      return total;
    }
    body.write(ByteView(piece).first(got));
    total += got;
  }
}

} // namespace

std::uint64_t fetch_once(const std::string& url, const Call& call, ByteSink& body) {
  constexpr std::string_view file = "file://";
  if (url.starts_with(file)) {
    return copy_file(url.substr(file.size()), call, body);
  }
  auto target = parse_target(url);
  for (int hops = 0; hops <= kRedirects; ++hops) {
    Exchange exchange(target, call);
    const auto location = exchange.run(body);
    if (!location) {
      return exchange.received();
    }
    target = redirected(Target(target), *location);
  }
  give_up(fmt::format("more than {} redirects", kRedirects));
}

} // namespace nixbuild::builtin
