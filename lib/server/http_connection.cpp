#include "http_connection.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <poll.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

namespace {

using Stream = beast::basic_stream<asio::generic::stream_protocol, asio::any_io_executor>;
using Parser = http::request_parser<http::string_body>;
using ErrorCode = boost::system::error_code;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kReadAtOnce = 4096;
/// What a client may still send while it is told that it should not have.
constexpr std::size_t kLingerBytes = 256 * 1024;
constexpr std::chrono::seconds kLinger{1};

/// How a request that cannot be read is answered. Nothing: not at all, because the client has left
/// or was too slow (Beast closes the socket then).
std::optional<ApiAnswer> answer_for(const ErrorCode& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return error_answer(431, "http.header-limit", "the header is too long");
  }
  if (error == http::error::body_limit) {
    return error_answer(413, "http.body-limit", "the body is too long");
  }
  if (error == http::error::end_of_stream || error == http::error::partial_message ||
      error.category() != make_error_code(http::error::bad_method).category()) {
    return std::nullopt;
  }
  return error_answer(400, "http.malformed", "this is no HTTP request: " + error.message());
}

/// The token of the header, or nothing where there is no such header; an empty one when it is not
/// one bearer token.
std::optional<std::string> presented_token(const http::fields& fields) {
  const auto count = fields.count(http::field::authorization);
  if (count == 0) {
    return std::nullopt;
  }
  constexpr std::string_view scheme = "bearer ";
  const auto field = fields[http::field::authorization];
  std::string_view text(field.data(), field.size());
  const bool is_bearer =
      text.size() > scheme.size() &&
      std::equal(scheme.begin(), scheme.end(), text.begin(), [](char wanted, char c) {
        return wanted == (c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
      });
  if (count > 1 || !is_bearer) {
    return std::string();
  }
  text.remove_prefix(scheme.size());
  return std::string(text);
}

/// May block on the file of tokens.
ApiCaller caller_of(HttpService& service, const std::optional<TokenDigest>& digest, bool owner) {
  ApiCaller caller;
  if (!digest) {
    caller.owner = owner;
    return caller;
  }
  const auto now = unix_seconds(service.clock.wall());
  if (auto token = service.tokens.find(*digest, now)) {
    caller.account = std::move(token->account);
    caller.permissions = token->permissions;
  }
  return caller;
}

/// A line of the header that goes on in the next one. Long given up (RFC 9112, 5.2): what stands
/// between us and the client may read it in another way than we do.
bool has_folded_line(std::string_view header) {
  for (auto at = header.find('\n'); at != std::string_view::npos && at + 1 < header.size();
       at = header.find('\n', at + 1)) {
    if (header[at + 1] == ' ' || header[at + 1] == '\t') {
      return true;
    }
  }
  return false;
}

/// Whether it is known where the body ends: one coding of its transfer at most, and that `chunked`.
/// Anything else is read in one way here and in another one elsewhere, and what follows the body
/// would be taken for a next request.
std::optional<ApiAnswer> refusal_of(const http::request<http::string_body>& message) {
  const auto count = message.count(http::field::transfer_encoding);
  if (count == 0) {
    return std::nullopt;
  }
  if (message.version() < 11) {
    return error_answer(400, "http.malformed", "HTTP/1.0 knows no Transfer-Encoding");
  }
  if (count > 1 || !beast::iequals(message[http::field::transfer_encoding], "chunked")) {
    return error_answer(
        501, "http.transfer-coding", "chunked is the only Transfer-Encoding that is known here");
  }
  return std::nullopt;
}

class Connection {
public:
  Connection(std::shared_ptr<HttpService> service, HttpSocket socket, bool owner)
      : service_(std::move(service)), stream_(std::move(socket)), owner_(owner),
        buffer_(service_->limits.header_bytes + kReadAtOnce) {}

  aio::Task<void> run();
  aio::Task<void> refuse();

private:
  struct Exchange {
    unsigned version = 11;
    bool keep_alive = false;
    bool head = false;
    std::optional<TokenDigest> digest;
  };

  aio::Task<bool> wait_for_bytes();
  aio::Task<bool> gather_header();
  aio::Task<bool> answer_one();
  aio::Task<bool> read_body(Parser& parser, bool known, Exchange& exchange);
  aio::Task<bool> send(ApiAnswer answer, Exchange exchange);
  aio::Task<bool> send_log(ApiAnswer answer, Exchange exchange);
  aio::Task<bool> send_log_bytes(std::string bytes, unsigned version);
  aio::Task<bool> wait_for_log();
  aio::Task<void> linger();
  [[nodiscard]] bool client_left() const;

  template <bool IsRequest, class Body, class Fields>
  void fill(http::message<IsRequest, Body, Fields>& message,
            const ApiAnswer& answer,
            const Exchange& exchange) const;

  std::shared_ptr<HttpService> service_;
  Stream stream_;
  bool owner_;
  beast::flat_buffer buffer_;
  bool linger_ = false;   ///< it is us who ends the connection
  ErrorCode cut_short_{}; ///< why a header did not come to its end
};

template <bool IsRequest, class Body, class Fields>
void Connection::fill(http::message<IsRequest, Body, Fields>& message,
                      const ApiAnswer& answer,
                      const Exchange& exchange) const {
  message.version(exchange.version);
  message.result(answer.status);
  message.set(http::field::server, "nixbuild");
  message.set(http::field::content_type, answer.type);
  message.set(http::field::cache_control, "no-store");
  message.set("X-Content-Type-Options", "nosniff");
  if (!answer.allow.empty()) {
    message.set(http::field::allow, answer.allow);
  }
  if (answer.status == 401) {
    message.set(http::field::www_authenticate, "Bearer realm=\"nixbuild\"");
  }
  message.keep_alive(exchange.keep_alive);
}

aio::Task<bool> Connection::wait_for_bytes() {
  if (buffer_.size() > 0) {
    co_return true;
  }
  stream_.expires_after(service_->limits.idle);
  const auto room = buffer_.prepare(kReadAtOnce);
  const auto [error, count] = co_await stream_.async_read_some(room, kAwait);
  buffer_.commit(count);
  co_return !error && count > 0;
}

/// Until a whole header is there, or what is no header. False when a line of it is folded.
aio::Task<bool> Connection::gather_header() {
  constexpr std::string_view end = "\r\n\r\n";
  for (;;) {
    const auto bytes = buffer_.data();
    const std::string_view text(static_cast<const char*>(bytes.data()), bytes.size());
    const auto at = text.find(end);
    if (at != std::string_view::npos || text.size() >= service_->limits.header_bytes) {
      co_return !has_folded_line(text.substr(0, at));
    }
    const auto room = buffer_.prepare(std::min(kReadAtOnce, buffer_.max_size() - buffer_.size()));
    const auto [error, count] = co_await stream_.async_read_some(room, kAwait);
    buffer_.commit(count);
    if (error || count == 0) {
      cut_short_ = error ? error : ErrorCode(asio::error::eof);
      co_return true;
    }
  }
}

aio::Task<bool> Connection::read_body(Parser& parser, bool known, Exchange& exchange) {
  const auto length = parser.content_length();
  const bool has_body = parser.chunked() || (length && *length > 0);
  if (!has_body) {
    co_return true;
  }
  if (!known) {
    // Nothing of a stranger's body is read: its bytes cannot be told from a next request then.
    exchange.keep_alive = false;
    co_return true;
  }
  if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
    http::response<http::empty_body> go_on(http::status::continue_, exchange.version);
    const auto [error, count] = co_await http::async_write(stream_, go_on, kAwait);
    if (error) {
      co_return false;
    }
  }
  const auto [error, count] = co_await http::async_read(stream_, buffer_, parser, kAwait);
  if (error) {
    exchange.keep_alive = false;
    if (auto answer = answer_for(error)) {
      co_await send(std::move(*answer), exchange);
    }
    co_return false;
  }
  co_return true;
}

aio::Task<bool> Connection::answer_one() {
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(service_->limits.header_bytes));
  parser.body_limit(service_->limits.body_bytes);
  stream_.expires_after(service_->limits.request);
  Exchange exchange;
  const bool plain = co_await gather_header();
  if (!plain) {
    auto refusal = error_answer(400, "http.malformed", "a line of the header is folded");
    co_return co_await send(std::move(refusal), exchange);
  }
  if (cut_short_) {
    if (auto answer = answer_for(cut_short_)) {
      co_await send(std::move(*answer), exchange);
    }
    co_return false;
  }
  {
    const auto [error, count] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
    if (error) {
      if (auto answer = answer_for(error)) {
        co_await send(std::move(*answer), exchange);
      }
      co_return false;
    }
  }
  const auto& message = parser.get();
  if (auto refusal = refusal_of(message)) {
    co_return co_await send(std::move(*refusal), exchange);
  }
  exchange.version = message.version();
  exchange.keep_alive = message.keep_alive();
  exchange.head = message.method() == http::verb::head;
  if (const auto token = presented_token(message)) {
    exchange.digest = digest_of_token(*token);
  }
  auto request = std::make_shared<ApiRequest>();
  auto find = [service = service_, request, digest = exchange.digest, owner = owner_] {
    request->caller = caller_of(*service, digest, owner);
  };
  co_await service_->pool.run(std::move(find));
  const bool known = request->caller.known();
  const bool readable = co_await read_body(parser, known, exchange);
  if (!readable) {
    co_return false;
  }
  // From here on it is the answer that takes time.
  stream_.expires_never();
  request->method = std::string(message.method_string());
  request->target = std::string(message.target());
  request->body = std::move(parser.get().body());
  auto work = [service = service_, request] {
    return service->api.answer(*request);
  };
  ApiAnswer answer = co_await service_->pool.run(std::move(work));
  if (answer.log) {
    co_return co_await send_log(std::move(answer), exchange);
  }
  co_return co_await send(std::move(answer), exchange);
}

aio::Task<bool> Connection::send(ApiAnswer answer, Exchange exchange) {
  http::response<http::string_body> message;
  fill(message, answer, exchange);
  message.content_length(answer.body.size());
  if (!exchange.head) {
    message.body() = std::move(answer.body);
  }
  service_->counters.http_answered(answer.status);
  linger_ = !exchange.keep_alive;
  http::response_serializer<http::string_body> serializer(message);
  while (!serializer.is_done()) {
    stream_.expires_after(service_->limits.stalled);
    const auto [error, count] = co_await http::async_write_some(stream_, serializer, kAwait);
    if (error) {
      linger_ = false;
      co_return false;
    }
  }
  co_return exchange.keep_alive;
}

aio::Task<bool> Connection::send_log(ApiAnswer answer, Exchange exchange) {
  const bool chunked = exchange.version >= 11;
  exchange.keep_alive = exchange.keep_alive && chunked;
  http::response<http::empty_body> message;
  fill(message, answer, exchange);
  message.chunked(chunked);
  service_->counters.http_answered(answer.status);
  http::response_serializer<http::empty_body> serializer(message);
  stream_.expires_after(service_->limits.stalled);
  {
    const auto [error, count] = co_await http::async_write_header(stream_, serializer, kAwait);
    if (error || exchange.head) {
      co_return !error && exchange.keep_alive;
    }
  }
  const auto log = *answer.log;
  auto offset = log.offset;
  for (;;) {
    // The next piece is read when the last one has been taken: a slow reader costs one piece.
    auto read = [service = service_, log, offset, digest = exchange.digest, owner = owner_] {
      LogBytes none;
      none.ended = true;
      return caller_of(*service, digest, owner).known() ? service->api.read_log(log, offset) : none;
    };
    LogBytes piece = co_await service_->pool.run(std::move(read));
    offset += piece.bytes.size();
    if (piece.ended) {
      break;
    }
    bool more = false;
    if (piece.bytes.empty()) {
      more = co_await wait_for_log();
    } else {
      more = co_await send_log_bytes(std::move(piece.bytes), exchange.version);
    }
    if (!more) {
      co_return false;
    }
  }
  if (chunked) {
    stream_.expires_after(service_->limits.stalled);
    const auto last = http::make_chunk_last();
    const auto [error, count] = co_await asio::async_write(stream_, last, kAwait);
    if (error) {
      co_return false;
    }
  }
  linger_ = !exchange.keep_alive;
  co_return exchange.keep_alive;
}

aio::Task<bool> Connection::send_log_bytes(std::string bytes, unsigned version) {
  stream_.expires_after(service_->limits.stalled);
  const asio::const_buffer buffer(bytes.data(), bytes.size());
  if (version >= 11) {
    const auto chunk = http::make_chunk(buffer);
    const auto [error, count] = co_await asio::async_write(stream_, chunk, kAwait);
    co_return !error;
  }
  const auto [error, count] = co_await asio::async_write(stream_, buffer, kAwait);
  co_return !error;
}

bool Connection::client_left() const {
  pollfd entry{const_cast<Stream&>(stream_).socket().native_handle(), POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) > 0;
}

/// False when the client has gone meanwhile.
aio::Task<bool> Connection::wait_for_log() {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  timer.expires_after(service_->limits.log_poll);
  const auto [error] = co_await timer.async_wait(kAwait);
  co_return !error && !client_left();
}

/// A socket that is closed with unread bytes is reset, and the client may lose the answer.
aio::Task<void> Connection::linger() {
  ErrorCode ignored;
  stream_.socket().shutdown(asio::socket_base::shutdown_send, ignored);
  stream_.expires_after(kLinger);
  buffer_.clear();
  for (std::size_t taken = 0; taken < kLingerBytes;) {
    const auto room = buffer_.prepare(kReadAtOnce);
    const auto [error, count] = co_await stream_.async_read_some(room, kAwait);
    if (error) {
      break;
    }
    taken += count;
  }
}

aio::Task<void> Connection::run() {
  for (;;) {
    const bool ready = co_await wait_for_bytes();
    if (!ready) {
      break;
    }
    const bool more = co_await answer_one();
    if (!more) {
      break;
    }
  }
  if (linger_) {
    co_await linger();
  }
}

aio::Task<void> Connection::refuse() {
  Exchange exchange;
  auto answer = error_answer(503, "http.connections", "there are too many connections");
  co_await send(std::move(answer), exchange);
  co_await linger();
}

} // namespace

aio::Task<void> serve_connection(std::shared_ptr<HttpSlot> slot, HttpSocket socket, bool owner) {
  Connection connection(slot->service(), std::move(socket), owner);
  try {
    co_await connection.run();
  } catch (const boost::system::system_error& error) {
    if (error.code() != asio::error::operation_aborted) {
      throw;
    }
  }
}

aio::Task<void> refuse_connection(std::shared_ptr<HttpSlot> slot, HttpSocket socket) {
  Connection connection(slot->service(), std::move(socket), false);
  try {
    co_await connection.refuse();
  } catch (const boost::system::system_error& error) {
    if (error.code() != asio::error::operation_aborted) {
      throw;
    }
  }
}

} // namespace nixbuild::server
