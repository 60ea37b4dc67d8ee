#include "resolve_host.hpp"

#include "http_fetch.hpp"

#include <ares.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/select.h>

#include <cstring>
#include <memory>

namespace nixbuild::builtin {

namespace asio = boost::asio;
using Endpoints = std::vector<asio::ip::tcp::endpoint>;

namespace {

constexpr std::chrono::seconds kTime{60};
constexpr int kTriesEach = 3;
constexpr int kFirstWaitMs = 5000;

struct Answer {
  bool done = false;
  int status = ARES_ENODATA;
  Endpoints endpoints;
};

void take(Answer& answer, const ares_addrinfo& found) {
  for (const auto* node = found.nodes; node != nullptr; node = node->ai_next) {
    asio::ip::tcp::endpoint endpoint;
    if (node->ai_addrlen <= endpoint.capacity()) {
      std::memcpy(endpoint.data(), node->ai_addr, node->ai_addrlen);
      endpoint.resize(node->ai_addrlen);
      answer.endpoints.push_back(endpoint);
    }
  }
}

void on_answer(void* argument, int status, int, ares_addrinfo* found) {
  auto& answer = *static_cast<Answer*>(argument);
  answer.done = true;
  answer.status = status;
  if (found != nullptr) {
    take(answer, *found);
    ares_freeaddrinfo(found);
  }
}

/// c-ares with what it holds for the whole program.
class Channel {
public:
  Channel() {
    ares_options options{};
    options.timeout = kFirstWaitMs;
    options.tries = kTriesEach;
    const bool ready =
        ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS &&
        ares_init_options(&channel_, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES) == ARES_SUCCESS;
    if (!ready) {
      throw FetchFailure{"names cannot be resolved: no memory", false};
    }
  }

  ~Channel() {
    ares_destroy(channel_);
    ares_library_cleanup();
  }

  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// Until the answer is there or the time is over.
  void ask(const std::string& host, const std::string& port, Answer& answer) {
    ares_addrinfo_hints hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = ARES_AI_NUMERICSERV;
    ares_getaddrinfo(channel_, host.c_str(), port.c_str(), &hints, on_answer, &answer);
    const auto end = std::chrono::steady_clock::now() + kTime;
    while (!answer.done && std::chrono::steady_clock::now() < end) {
      fd_set readable;
      fd_set writable;
      FD_ZERO(&readable);
      FD_ZERO(&writable);
      const int count = ares_fds(channel_, &readable, &writable);
      timeval most{1, 0};
      timeval next{};
      ::select(count, &readable, &writable, nullptr, ares_timeout(channel_, &most, &next));
      ares_process(channel_, &readable, &writable);
    }
  }

private:
  ares_channel channel_ = nullptr;
};

} // namespace

Endpoints resolve_host(const std::string& host, const std::string& port) {
  Answer answer; // outlives the channel, which tells it even when it ends
  Channel channel;
  channel.ask(host, port, answer);
  if (answer.endpoints.empty()) {
    throw FetchFailure{fmt::format("cannot resolve host '{}': {}",
                                   host,
                                   answer.done ? ares_strerror(answer.status) : "no answer"),
                       true};
  }
  return answer.endpoints;
}

} // namespace nixbuild::builtin
