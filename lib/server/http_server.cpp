#include "http_address.hpp"
#include "http_connection.hpp"

#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/http.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol, asio::any_io_executor>;

constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kMostRefusals = 50;
constexpr std::chrono::milliseconds kAcceptPause{100};

HttpAddress permitted_address(const HttpSettings& settings) {
  auto address = parse_http_address(settings.listen);
  if (!address.loopback && !settings.allow_remote) {
    throw Error(Reaction::Denied,
                "http.remote",
                fmt::format("http.listen '{}' can be reached from other machines, and what goes "
                            "over it is not encrypted; http.allow-remote = true permits it",
                            settings.listen));
  }
  return address;
}

/// True for the daemon's own user and for root at the other end of a Unix socket.
bool is_owner(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid != 0 &&
         (peer.uid == ::geteuid() || peer.uid == 0);
}

} // namespace

struct HttpServer::State {
  State(asio::any_io_executor e,
        const HttpSettings& settings,
        const HttpParts& parts,
        HttpHooks hooks)
      : executor(std::move(e)), log(parts.log), address(permitted_address(settings)),
        service(std::make_shared<HttpService>(
            parts, std::move(hooks), settings.limits, settings.tokens_file)),
        strand(asio::make_strand(executor)), acceptor(strand), tasks(executor, parts.log) {
    auto listener = listen_http(address);
    name = print(address);
    const bool is_unix = !address.unix_path.empty();
    const asio::generic::stream_protocol protocol(
        is_unix ? AF_UNIX : (address.version_6 ? AF_INET6 : AF_INET), 0);
    acceptor.assign(protocol, listener.release());
  }

  asio::any_io_executor executor;
  Log& log;
  HttpAddress address;
  std::string name;
  std::shared_ptr<HttpService> service;
  asio::any_io_executor strand; ///< of the acceptor
  Acceptor acceptor;
  aio::TaskGroup tasks;
  std::atomic<bool> stopping{false};

  static aio::Task<bool> accept_one(std::shared_ptr<State> state);
  static aio::Task<void> accept(std::shared_ptr<State> state);
  void take(HttpSocket socket, const asio::any_io_executor& own_strand);
};

aio::Task<bool> HttpServer::State::accept_one(std::shared_ptr<State> state) {
  const asio::any_io_executor own_strand = asio::make_strand(state->executor);
  HttpSocket socket(own_strand);
  const auto [error] = co_await state->acceptor.async_accept(socket, kAsTuple);
  if (error == asio::error::operation_aborted || state->stopping) {
    co_return false;
  }
  if (error) {
    throw boost::system::system_error(error, "taking an HTTP connection");
  }
  state->take(std::move(socket), own_strand);
  co_return true;
}

aio::Task<void> HttpServer::State::accept(std::shared_ptr<State> state) {
  while (!state->stopping) {
    std::string trouble;
    try {
      const bool more = co_await accept_one(state);
      if (!more) {
        co_return;
      }
    } catch (const std::exception& error) {
      // Most likely there are no descriptors left; others will be given back.
      trouble = error.what();
    }
    if (trouble.empty()) {
      continue;
    }
    state->log.warning(trouble);
    asio::steady_timer pause(state->strand, kAcceptPause);
    const auto [stopped] = co_await pause.async_wait(kAsTuple);
    if (stopped) {
      co_return;
    }
  }
}

void HttpServer::State::take(HttpSocket socket, const asio::any_io_executor& own_strand) {
  if (service->open.load() < service->limits.connections) {
    const bool owner = !address.unix_path.empty() && is_owner(socket.native_handle());
    auto slot = std::make_shared<HttpSlot>(service, &HttpService::open);
    tasks.spawn(
        "HTTP connection", serve_connection(std::move(slot), std::move(socket), owner), own_strand);
  } else if (service->refusing.load() < kMostRefusals) {
    auto slot = std::make_shared<HttpSlot>(service, &HttpService::refusing);
    tasks.spawn(
        "HTTP connection", refuse_connection(std::move(slot), std::move(socket)), own_strand);
  }
}

HttpServer::HttpServer(asio::any_io_executor executor,
                       HttpSettings settings,
                       const HttpParts& parts,
                       HttpHooks hooks)
    : state_(std::make_shared<State>(std::move(executor), settings, parts, std::move(hooks))) {}

HttpServer::~HttpServer() {
  stop();
  state_->service->pool.join();
}

const std::string& HttpServer::address() const noexcept {
  return state_->name;
}

void HttpServer::start() {
  state_->tasks.spawn("taking HTTP connections", State::accept(state_), state_->strand);
}

aio::Task<bool> HttpServer::take_one() {
  co_return co_await State::accept_one(state_);
}

asio::any_io_executor HttpServer::strand() const {
  return state_->strand;
}

std::size_t HttpServer::running() const noexcept {
  return state_->tasks.running();
}

void HttpServer::stop() {
  if (state_->stopping.exchange(true)) {
    return;
  }
  if (!state_->address.unix_path.empty()) {
    ::unlink(state_->address.unix_path.c_str());
  }
  state_->tasks.cancel();
}

aio::Task<void> HttpServer::join() {
  co_await state_->tasks.join();
}

std::size_t HttpServer::connections() const noexcept {
  return state_->service->open.load();
}

} // namespace nixbuild::server
