#pragma once

#include "paper_server.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/protocol/worker.hpp>
#include <nixbuild/server/worker_session.hpp>

#include <boost/asio/this_coro.hpp>
#include <catch2/catch.hpp>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <future>
#include <string>
#include <thread>

/// The client's side of a worker session with a server on paper.
namespace nixbuild::tests {

namespace worker = protocol::worker;
using Method = model::ContentAddressMethod;

inline aio::Task<void> run_session(PaperServer& server,
                                   std::shared_ptr<std::array<UniqueFd, 3>> fds,
                                   bool write,
                                   std::shared_ptr<std::promise<int>> status) {
  const auto here = co_await boost::asio::this_coro::executor;
  auto in = std::make_shared<aio::ByteStream>(here, std::move((*fds)[0]));
  auto out = std::make_shared<aio::ByteStream>(here, std::move((*fds)[1]));
  auto err = std::make_shared<aio::ByteStream>(here, std::move((*fds)[2]));
  server::SessionLimits limits;
  limits.stalled = std::chrono::seconds(5);
  const int result = co_await server::run_worker_session(server.parts,
                                                         limits,
                                                         caller_of(server, write),
                                                         std::move(in),
                                                         std::move(out),
                                                         std::move(err));
  status->set_value(result);
}

/// What the server said to one request.
struct Answer {
  std::vector<worker::LogMessage> log;
  std::optional<std::string> failure;
  std::optional<worker::Reply> reply;

  [[nodiscard]] std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    for (const auto& message : log) {
      const auto* result = std::get_if<worker::ActivityResult>(&message);
      if (result != nullptr && result->type == worker::ResultType::BuildLogLine) {
        lines.push_back(std::get<std::string>(result->fields.at(0)));
      }
    }
    return lines;
  }

  template <class T>
  [[nodiscard]] std::size_t count() const {
    return static_cast<std::size_t>(
        std::count_if(log.begin(), log.end(), [](const worker::LogMessage& message) {
          return std::holds_alternative<T>(message);
        }));
  }
};

/// The client's end of one session. Blocking, with a deadline on every read.
class Client {
public:
  explicit Client(PaperServer& server,
                  protocol::Version version = worker::kNewestVersion,
                  bool write = true)
      : version_(version), reader_(model::StoreDir(), {}, version) {
    auto fds = std::make_shared<std::array<UniqueFd, 3>>();
    UniqueFd* ours[3] = {&to_, &from_, &err_};
    for (std::size_t i = 0; i < 3; ++i) {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
      ours[i]->reset(ends[0]);
      (*fds)[i].reset(ends[1]);
    }
    auto promise = std::make_shared<std::promise<int>>();
    status_ = promise->get_future();
    server.tasks.spawn("session", run_session(server, fds, write, promise));
  }

  worker::Welcome hello() {
    std::string bytes;
    worker::write_client_hello(bytes, version_);
    send(bytes);
    const auto agreed = read<protocol::Version>([this] { return reader_.read_hello(); });
    REQUIRE(agreed);
    bytes.clear();
    worker::write_client_greeting(bytes, *agreed);
    send(bytes);
    const auto welcome = read<worker::Welcome>([this] { return reader_.read_welcome(); });
    REQUIRE(welcome);
    const auto last = read<worker::LogMessage>([this] { return reader_.read_log(); });
    REQUIRE(last);
    CHECK(std::holds_alternative<worker::Last>(*last));
    peer_ = welcome->peer;
    return *welcome;
  }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto count = ::write(to_.get(), bytes.data(), bytes.size());
      REQUIRE(count > 0);
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }

  void request(const worker::Request& wanted, std::string_view payload = {}) {
    std::string bytes;
    worker::write_request(bytes, model::StoreDir(), peer_, wanted);
    switch (worker::payload_of(wanted, peer_)) {
    case worker::Payload::Framed:
      // Small frames, so that every cut happens.
      for (std::size_t at = 0; at < payload.size(); at += 1000) {
        protocol::write_frame(bytes, bytes_of(payload.substr(at, 1000)));
      }
      protocol::write_end_of_frames(bytes);
      break;
    case worker::Payload::Nar:
      bytes += payload;
      break;
    case worker::Payload::None:
    case worker::Payload::Pulled:
      break;
    }
    send(bytes);
    pulled_ = payload;
  }

  /// Everything up to the reply or the failure.
  Answer answer(const worker::Request& wanted) {
    Answer answer;
    for (;;) {
      auto message = read<worker::LogMessage>([this] { return reader_.read_log(); });
      if (!message) {
        return answer;
      }
      if (auto* failure = std::get_if<worker::Failure>(&*message)) {
        answer.failure = failure->message;
        return answer;
      }
      if (std::holds_alternative<worker::Last>(*message)) {
        answer.reply = read<worker::Reply>([&] { return reader_.read_reply(wanted); });
        return answer;
      }
      if (const auto* more = std::get_if<worker::DataWanted>(&*message)) {
        const auto part =
            pulled_.substr(0, std::min<std::size_t>(static_cast<std::size_t>(more->most), 50'000));
        std::string bytes;
        worker::write_pulled(bytes, bytes_of(part));
        send(bytes);
        pulled_.remove_prefix(part.size());
      }
      answer.log.push_back(std::move(*message));
    }
  }

  Answer ask(const worker::Request& wanted, std::string_view payload = {}) {
    request(wanted, payload);
    return answer(wanted);
  }

  std::string raw(std::size_t size) {
    read<bool>([&]() -> std::optional<bool> {
      return reader_.raw().size() >= size ? std::optional<bool>(true) : std::nullopt;
    });
    std::string bytes(text_of(reader_.raw().first(size)));
    reader_.consume_raw(size);
    return bytes;
  }

  int end() {
    to_.reset();
    REQUIRE(status_.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
    return status_.get();
  }

  [[nodiscard]] const worker::Peer& peer() const { return peer_; }

private:
  template <class T>
  std::optional<T> read(const std::function<std::optional<T>()>& take) {
    for (;;) {
      if (auto got = take()) {
        return got;
      }
      std::array<std::uint8_t, 4096> buffer{};
      pollfd entry{from_.get(), POLLIN, 0};
      REQUIRE(::poll(&entry, 1, 20'000) == 1);
      const auto count = ::read(from_.get(), buffer.data(), buffer.size());
      if (count <= 0) {
        return std::nullopt;
      }
      reader_.feed(ByteView(buffer).first(static_cast<std::size_t>(count)));
    }
  }

  protocol::Version version_;
  UniqueFd to_;
  UniqueFd from_;
  UniqueFd err_;
  worker::ReplyReader reader_;
  worker::Peer peer_;
  std::string_view pulled_;
  std::future<int> status_;
};

inline model::PathInfo info_of(std::string_view name, const std::string& nar) {
  model::PathInfo info{path_named(name), {}, {}, 0, {}, 0, false, {}, {}};
  info.nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of(nar));
  info.nar_size = nar.size();
  return info;
}

template <class T>
T reply_of(const Answer& answer) {
  CAPTURE(answer.failure.value_or("no failure"));
  REQUIRE(answer.reply);
  REQUIRE(std::holds_alternative<T>(*answer.reply));
  return std::get<T>(*answer.reply);
}

inline bool succeeded(const Answer& answer) {
  return reply_of<worker::NumberReply>(answer).value == 1;
}

/// The frames' contents of an AddMultipleToStore.
inline std::string
paths_payload(const std::vector<std::pair<model::PathInfo, std::string>>& paths) {
  std::string payload;
  protocol::write_path_count(payload, paths.size());
  for (const auto& [info, nar] : paths) {
    protocol::write_path_info(payload, model::StoreDir(), info);
    payload += nar;
  }
  return payload;
}

inline worker::AddToStore
file_by(std::string_view name, Method method, HashAlgorithm algorithm = HashAlgorithm::Sha256) {
  return {std::string(name), {method, algorithm}, {}, false};
}

/// Those of add_derivation.
inline std::map<model::StorePath, model::Derivation>& added_derivations() {
  static std::map<model::StorePath, model::Derivation> all;
  return all;
}

inline model::HashModulo hash_of_added(const model::StorePath& path) {
  return model::hash_modulo(model::StoreDir(), added_derivations().at(path), false, hash_of_added);
}

/// Fills in the outputs that follow from the derivation, which is one of input-addressed outputs.
inline void complete(std::string_view name, model::Derivation& derivation) {
  const model::StoreDir dir;
  for (auto& [output, made] : derivation.outputs) {
    made.path.reset();
    derivation.environment[output].clear();
  }
  for (auto& [output, path] : model::input_addressed_paths(dir, name, derivation, hash_of_added)) {
    derivation.environment[output] = dir.print(path);
    derivation.outputs[output].path = path;
  }
}

inline worker::AddTextToStore text_of(std::string_view name, const model::Derivation& derivation) {
  worker::AddTextToStore request{std::string(name) + ".drv",
                                 model::print_derivation(model::StoreDir(), derivation),
                                 derivation.input_sources};
  for (const auto& [input, outputs] : derivation.input_derivations) {
    request.references.push_back(input);
  }
  model::sort_unique(request.references);
  return request;
}

/// A derivation of one output, made from those of others.
inline model::Derivation derivation_of(std::string_view name, const model::StorePaths& inputs) {
  model::Derivation derivation;
  derivation.outputs["out"] = {};
  derivation.platform = "x86_64-linux";
  derivation.builder = "/bin/sh";
  derivation.environment["name"] = std::string(name);
  for (const auto& input : inputs) {
    derivation.input_derivations[input] = {"out"};
  }
  return derivation;
}

/// A derivation that makes one file, put into the store by the client.
inline model::StorePath
add_derivation(Client& client, std::string_view name, const model::StorePaths& inputs) {
  auto derivation = derivation_of(name, inputs);
  complete(name, derivation);
  const auto path = reply_of<worker::PathReply>(client.ask(text_of(name, derivation))).path;
  added_derivations().insert_or_assign(path, std::move(derivation));
  return path;
}

inline model::StorePath output_of(const model::StorePath& derivation) {
  return added_derivations().at(derivation).outputs.at("out").path.value();
}

inline protocol::DerivedPath all_of(const model::StorePath& derivation) {
  return {derivation, protocol::DerivedPath::Wants::AllOutputs, {}};
}

inline protocol::DerivedPath itself(const model::StorePath& path) {
  return {path, protocol::DerivedPath::Wants::Path, {}};
}

inline worker::BuildDerivation build_of(std::string_view name) {
  worker::BuildDerivation request{path_named(std::string(name) + ".drv"), {}};
  model::DerivationOutput output;
  output.path = path_named(name);
  request.derivation.outputs["out"] = output;
  request.derivation.platform = "x86_64-linux";
  request.derivation.builder = "/bin/sh";
  return request;
}

} // namespace nixbuild::tests
