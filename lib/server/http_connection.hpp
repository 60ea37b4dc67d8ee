#pragma once

#include "api.hpp"
#include "http_tokens.hpp"

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/task.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/stream_protocol.hpp>

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

namespace nixbuild::server {

/// A Unix or a TCP socket.
using HttpSocket = boost::asio::basic_stream_socket<boost::asio::generic::stream_protocol,
                                                    boost::asio::any_io_executor>;

/// What the connections of one server share. Lives as long as any of them.
struct HttpService {
  HttpService(const HttpParts& parts, HttpHooks hooks, HttpLimits given, std::string tokens_file)
      : limits(given), clock(parts.clock), counters(parts.counters),
        tokens(std::move(tokens_file), parts.log),
        api(parts, std::move(hooks), [this] { return open.load(); }) {}

  HttpLimits limits;
  const Clock& clock;
  ServerCounters& counters;
  std::atomic<std::size_t> open{0};
  std::atomic<std::size_t> refusing{0};
  TokenBook tokens;
  Api api;
  aio::BlockingPool pool{2};
};

/// One connection's place in a count, taken while it lives.
class HttpSlot {
public:
  HttpSlot(std::shared_ptr<HttpService> service, std::atomic<std::size_t> HttpService::*count)
      : service_(std::move(service)), count_((*service_).*count) {
    ++count_;
  }

  ~HttpSlot() { --count_; }

  [[nodiscard]] const std::shared_ptr<HttpService>& service() const noexcept { return service_; }

  HttpSlot(const HttpSlot&) = delete;
  HttpSlot& operator=(const HttpSlot&) = delete;

private:
  std::shared_ptr<HttpService> service_;
  std::atomic<std::size_t>& count_;
};

/// Answers the requests of one connection until it ends. `owner`: the peer may do everything
/// without a token. Runs on the socket's executor, which is a strand.
aio::Task<void> serve_connection(std::shared_ptr<HttpSlot> slot, HttpSocket socket, bool owner);
/// Answers 503 and closes.
aio::Task<void> refuse_connection(std::shared_ptr<HttpSlot> slot, HttpSocket socket);

} // namespace nixbuild::server
