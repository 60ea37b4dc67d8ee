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

using namespace nixbuild;
using tests::good_build;
using tests::PaperServer;
using tests::path_named;
namespace worker = protocol::worker;
using Method = model::ContentAddressMethod;

namespace {

aio::Task<void> run_session(PaperServer& server,
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
                                                         tests::caller_of(server, write),
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

model::PathInfo info_of(std::string_view name, const std::string& nar) {
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

bool succeeded(const Answer& answer) {
  return reply_of<worker::NumberReply>(answer).value == 1;
}

/// The frames' contents of an AddMultipleToStore.
std::string paths_payload(const std::vector<std::pair<model::PathInfo, std::string>>& paths) {
  std::string payload;
  protocol::write_path_count(payload, paths.size());
  for (const auto& [info, nar] : paths) {
    protocol::write_path_info(payload, model::StoreDir(), info);
    payload += nar;
  }
  return payload;
}

worker::AddToStore
file_by(std::string_view name, Method method, HashAlgorithm algorithm = HashAlgorithm::Sha256) {
  return {std::string(name), {method, algorithm}, {}, false};
}

/// A derivation that makes one file, put into the store by the client.
model::StorePath
add_derivation(Client& client, std::string_view name, const model::StorePaths& inputs) {
  model::Derivation derivation;
  model::DerivationOutput output;
  output.path = path_named(name);
  derivation.outputs["out"] = output;
  derivation.platform = "x86_64-linux";
  derivation.builder = "/bin/sh";
  derivation.environment["name"] = std::string(name);
  for (const auto& input : inputs) {
    derivation.input_derivations[input] = {"out"};
  }
  const model::StoreDir dir;
  worker::AddTextToStore request{
      std::string(name) + ".drv", model::print_derivation(dir, derivation), inputs};
  model::sort_unique(request.references);
  return reply_of<worker::PathReply>(client.ask(request)).path;
}

protocol::DerivedPath all_of(const model::StorePath& derivation) {
  return {derivation, protocol::DerivedPath::Wants::AllOutputs, {}};
}

protocol::DerivedPath itself(const model::StorePath& path) {
  return {path, protocol::DerivedPath::Wants::Path, {}};
}

worker::BuildDerivation build_of(std::string_view name) {
  worker::BuildDerivation request{path_named(std::string(name) + ".drv"), {}};
  model::DerivationOutput output;
  output.path = path_named(name);
  request.derivation.outputs["out"] = output;
  request.derivation.platform = "x86_64-linux";
  request.derivation.builder = "/bin/sh";
  return request;
}

} // namespace

TEST_CASE("worker session: greets every version, and trusts whoever may use the account",
          "[server]") {
  PaperServer server(good_build);
  for (const unsigned minor : {18U, 21U, 26U, 32U, 34U, 35U, 38U}) {
    CAPTURE(minor);
    Client client(server, protocol::Version(1, minor));
    const auto welcome = client.hello();
    CHECK(welcome.peer.version == protocol::Version(1, minor));
    CHECK(welcome.daemon_version.empty() == (minor < 33));
    CHECK((welcome.trust == worker::Trust::Trusted) == (minor >= 35));
    CHECK(client.end() == 0);
  }
}

TEST_CASE("worker session: many paths come in at once, are described, listed and sent back",
          "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  std::vector<std::pair<model::PathInfo, std::string>> paths;
  const auto big = tests::nar_of_file(std::string(3'000'000, 'y'));
  for (int i = 0; i < 1'200; ++i) {
    const auto name = "path-" + std::to_string(i);
    const auto nar = i == 700 ? big : tests::nar_of_file(name);
    auto info = info_of(name, nar);
    if (i > 0) {
      info.references = {path_named("path-" + std::to_string(i - 1))};
    }
    paths.emplace_back(std::move(info), nar);
  }
  reply_of<worker::EmptyReply>(client.ask(worker::AddMultipleToStore{}, paths_payload(paths)));
  CHECK(server.db->all_paths(server.account).size() == 1'200);

  const worker::QueryValidPaths valid{{path_named("path-1199"), path_named("none")}, false};
  CHECK(reply_of<worker::PathsReply>(client.ask(valid)).paths ==
        model::StorePaths{path_named("path-1199")});
  const worker::QueryPathInfo wanted{path_named("path-700")};
  const auto info = reply_of<worker::QueryPathInfoReply>(client.ask(wanted)).info;
  REQUIRE(info);
  CHECK(info->nar_hash == paths[700].first.nar_hash);
  CHECK(info->references == paths[700].first.references);
  const worker::QueryPathInfo missing{path_named("none")};
  CHECK_FALSE(reply_of<worker::QueryPathInfoReply>(client.ask(missing)).info);
  reply_of<worker::EmptyReply>(client.ask(worker::NarFromPath{path_named("path-700")}));
  CHECK(client.raw(big.size()) == big);
  const worker::QueryReferrers referrers{path_named("path-699")};
  CHECK(reply_of<worker::PathsReply>(client.ask(referrers)).paths ==
        model::StorePaths{path_named("path-700")});
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: a failing path of many leaves those before it and the session",
          "[server][reject]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  std::vector<std::pair<model::PathInfo, std::string>> paths;
  for (const auto* name : {"a", "b", "c"}) {
    const auto nar = tests::nar_of_file(name);
    paths.emplace_back(info_of(name, nar), nar);
  }
  paths[1].first.nar_hash = paths[0].first.nar_hash;
  auto answer = client.ask(worker::AddMultipleToStore{}, paths_payload(paths));
  REQUIRE(answer.failure);
  CHECK(answer.failure->find("path '" + path_named("b").base_name()) != std::string::npos);
  CHECK(server.db->all_paths(server.account) == model::StorePaths{path_named("a")});

  const auto whole = paths_payload({paths[0]});
  answer = client.ask(worker::AddMultipleToStore{}, whole.substr(0, whole.size() - 8));
  REQUIRE(answer.failure);
  CHECK(answer.failure->find("frames end") != std::string::npos);
  answer = client.ask(worker::AddMultipleToStore{}, whole + std::string(8, 'x'));
  REQUIRE(answer.failure);
  CHECK(answer.failure->find("bytes follow") != std::string::npos);
  CHECK(succeeded(client.ask(worker::IsValidPath{path_named("a")})));
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: one path comes in as each version sends it", "[server]") {
  for (const unsigned minor : {20U, 21U, 22U, 23U, 38U}) {
    CAPTURE(minor);
    PaperServer server(good_build);
    Client client(server, protocol::Version(1, minor));
    client.hello();
    for (const std::size_t size : {10UL, 2'000'000UL}) {
      const auto nar = tests::nar_of_file(std::string(size, 'z'));
      const auto info = info_of("thing-" + std::to_string(size), nar);
      reply_of<worker::EmptyReply>(client.ask(worker::AddToStoreNar{info}, nar));
      // Valid already: its bytes are taken all the same.
      reply_of<worker::EmptyReply>(client.ask(worker::AddToStoreNar{info}, nar));
      const auto stored = server.db->path_info(server.account, info.path);
      REQUIRE(stored);
      CHECK(stored->nar_hash == info.nar_hash);
    }
    CHECK(client.end() == 0);
  }
}

TEST_CASE("worker session: files and trees get the paths that their contents say", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto add = [&](worker::AddToStore request, std::string_view payload) {
    return reply_of<worker::PathInfoReply>(client.ask(request, payload)).info;
  };
  // Source of the names: protocol facts 8.
  const auto tree = add(file_by("hello", Method::NixArchive), tests::nar_of_file("hello"));
  CHECK(tree.path.base_name() == "yqi18hzk6wxzj2ksv7x9k8rnnzwirzz9-hello");
  CHECK(tree.content_address ==
        "fixed:r:sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa");
  const auto flat = add(file_by("hello", Method::Flat), "hello");
  CHECK(flat.path.base_name() == "3fhdhfqli6qm669f7sz8d8v6xz24zrqc-hello");
  const auto md5 = add(file_by("hello", Method::Flat, HashAlgorithm::Md5), "hello");
  CHECK(md5.path.base_name() == "cjjgh51g19my6qswi7m4371f5892dxs9-hello");
  const auto text = add(file_by("src.txt", Method::Text), "hello");
  CHECK(text.path.base_name() == "7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt");
  const worker::AddTextToStore old{"src.txt", "hello", {}};
  CHECK(reply_of<worker::PathReply>(client.ask(old)).path == text.path);
  // Larger than what is held in memory, and there already.
  for (int i = 0; i < 2; ++i) {
    const auto large = add(file_by("large", Method::Flat), std::string(5'000'001, 'q'));
    CHECK(server.db->path_info(server.account, large.path)->content_address ==
          large.content_address);
  }
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: what is not offered is refused in the protocol, and the session goes on",
          "[server][reject]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto drv = path_named("x.drv");
  const std::vector<std::pair<worker::Request, std::string>> cases = {
      {file_by("x", Method::Git, HashAlgorithm::Sha1), "git"},
      {file_by("x", Method::NixArchive, HashAlgorithm::Sha1), "r:sha1"},
      {worker::AddToStore{"x", {Method::Flat, HashAlgorithm::Sha256}, {}, true}, "repairing"},
      {worker::AddBuildLog{drv}, "only builds made here"},
      {worker::AddIndirectRoot{"/tmp/link"}, "links as roots"},
      {worker::AddPermRoot{drv, "/tmp/link"}, "links as roots"},
      {worker::BuildPaths{{all_of(drv)}, worker::BuildMode::Repair}, "repairing"},
      {worker::BuildPaths{{all_of(drv)}, worker::BuildMode::Check}, "--rebuild"},
      {worker::BuildPaths{{all_of(drv)}}, "does not exist in the store"},
      {worker::EnsurePath{drv}, "cannot be created"},
      {worker::NarFromPath{drv}, "is not valid"},
      {worker::QueryDeriver{drv}, "is not valid"},
      {worker::QueryDerivationOutputMap{drv}, "is not valid"},
      {worker::AddSignatures{drv, {"k:x"}}, "is not valid"},
      {worker::QueryPathFromHashPart{"short"}, "32 characters"},
      {worker::CollectGarbage{worker::GcAction::ReturnLive, true, {}, false, false, 0},
       "whole collection"},
      {worker::VerifyStore{true, true}, "repairing"},
  };
  for (const auto& [request, says] : cases) {
    CAPTURE(worker::name_of(request), says);
    const auto answer = client.ask(request, "some payload");
    REQUIRE(answer.failure);
    CHECK(answer.failure->find(says) != std::string::npos);
  }
  CHECK(succeeded(client.ask(worker::SyncWithGC{})));
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: without write permission nothing can be changed", "[server][reject]") {
  PaperServer server(good_build);
  Client client(server, worker::kNewestVersion, false);
  client.hello();
  const std::vector<worker::Request> requests = {worker::AddMultipleToStore{},
                                                 worker::AddTextToStore{"x", "y", {}},
                                                 build_of("made"),
                                                 worker::BuildPaths{},
                                                 worker::CollectGarbage{}};
  for (const auto& request : requests) {
    const auto answer = client.ask(request, "payload");
    REQUIRE(answer.failure);
    CHECK(answer.failure->find(std::string(worker::name_of(request)) + " is refused") == 0);
  }
  CHECK(reply_of<worker::PathsReply>(client.ask(worker::QueryAllValidPaths{})).paths.empty());
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: a build is an activity with its lines and phases", "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.log = {{"one li"}, {"ne\n@nix {\"action\":\"setPhase\",\"phase\":\"go\"}\nlast"}};
    return script;
  });
  Client client(server);
  client.hello();
  const auto answer = client.ask(build_of("made"));
  const auto result = reply_of<worker::BuildReply>(answer).result;
  CHECK(result.status == model::BuildStatus::Built);
  CHECK(result.outputs.at("out").path == path_named("made"));
  CHECK(answer.lines() == std::vector<std::string>{"one line", "last"});
  CHECK(answer.count<worker::StartActivity>() == 1);
  CHECK(answer.count<worker::StopActivity>() == 1);
  const auto phase = std::find_if(answer.log.begin(), answer.log.end(), [](const auto& message) {
    const auto* got = std::get_if<worker::ActivityResult>(&message);
    return got != nullptr && got->type == worker::ResultType::SetPhase;
  });
  REQUIRE(phase != answer.log.end());
  CHECK(std::get<worker::ActivityResult>(*phase).fields == std::vector<worker::LogField>{"go"});
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: a graph of derivations is built inputs first and in parallel",
          "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.before_exit = std::chrono::milliseconds(50);
    return script;
  });
  Client client(server);
  client.hello();
  const auto bottom = add_derivation(client, "bottom", {});
  const auto left = add_derivation(client, "left", {bottom});
  const auto right = add_derivation(client, "right", {bottom});
  const auto top = add_derivation(client, "top", {left, right});

  const worker::QueryMissing question{{all_of(top)}};
  auto missing = reply_of<worker::MissingReply>(client.ask(question));
  CHECK(missing.will_build.size() == 4);
  CHECK(missing.unknown.empty());
  const worker::BuildPathsWithResults wanted{{all_of(top), itself(top)}};
  const auto answer = client.ask(wanted);
  const auto results = reply_of<worker::BuildsReply>(answer).results;
  REQUIRE(results.size() == 2);
  CHECK(results[0].reply.result.status == model::BuildStatus::Built);
  CHECK(results[0].reply.result.outputs.at("out").path == path_named("top"));
  CHECK(results[1].reply.result.status == model::BuildStatus::AlreadyValid);
  CHECK(answer.count<worker::StartActivity>() == 4);
  const auto& runs = server.executor.runs();
  REQUIRE(runs.size() == 4);
  for (const auto* name : {"bottom", "left", "right", "top"}) {
    CHECK(server.db->path_info(server.account, path_named(name)));
  }
  missing = reply_of<worker::MissingReply>(client.ask(question));
  CHECK(missing.will_build.empty());
  CHECK(succeeded(client.ask(worker::BuildPaths{{all_of(top)}})));
  CHECK(server.executor.runs().size() == 4);
  const worker::QueryDerivationOutputMap map{top};
  CHECK(reply_of<worker::OutputMapReply>(client.ask(map)).outputs.at("out") == path_named("top"));
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: a failure ends what needs it, and the rest only when that was asked for",
          "[server]") {
  for (const bool keep_going : {false, true}) {
    CAPTURE(keep_going);
    PaperServer server([](const sandbox::ExecutionPlan& plan) {
      auto script = good_build(plan);
      for (const auto& [name, value] : plan.job.environment) {
        if (name == "name" && value == "bad") {
          script.exit.code = 1;
        } else if (name == "name" && value == "slow") {
          script.before_exit = std::chrono::milliseconds(700);
        }
      }
      return script;
    });
    Client client(server);
    client.hello();
    worker::SetOptions options;
    options.keep_going = keep_going;
    reply_of<worker::EmptyReply>(client.ask(options));
    const auto bad = add_derivation(client, "bad", {});
    const auto slow = add_derivation(client, "slow", {});
    const auto top = add_derivation(client, "top", {bad, slow});
    const worker::BuildPathsWithResults wanted{{all_of(top), all_of(slow), all_of(bad)}};
    const auto answer = client.ask(wanted);
    const auto results = reply_of<worker::BuildsReply>(answer).results;
    REQUIRE(results.size() == 3);
    CHECK(results[0].reply.result.status == model::BuildStatus::DependencyFailed);
    CHECK(model::is_success(results[1].reply.result.status) == keep_going);
    CHECK(results[2].reply.result.status == model::BuildStatus::PermanentFailure);
    CHECK(answer.count<worker::StopActivity>() == answer.count<worker::StartActivity>());
    const auto failure = client.ask(worker::BuildPaths{{all_of(bad)}}).failure;
    REQUIRE(failure);
    CHECK(failure->find("exit code 1") != std::string::npos);
    CHECK(client.end() == 0);
  }
}

TEST_CASE("worker session: a client that leaves ends its builds", "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.before_exit = std::chrono::seconds(60);
    return script;
  });
  Client client(server);
  client.hello();
  const auto drv = add_derivation(client, "made", {});
  client.request(worker::BuildPathsWithResults{{all_of(drv)}});
  while (server.builds.running() == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(client.end() == 1);
  for (int i = 0; i < 1000 && server.builds.running() > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(server.builds.running() == 0);
}

TEST_CASE("worker session: nonsense and early ends give an error and no more", "[server][reject]") {
  PaperServer server(good_build);
  {
    Client client(server);
    client.send("GET / HTTP/1.1\r\n\r\n");
    CHECK(client.end() == 1);
  }
  {
    Client client(server);
    client.hello();
    std::string unknown(8, '\0');
    unknown[0] = 99;
    client.send(unknown);
    const auto answer = client.answer(worker::SyncWithGC{});
    REQUIRE(answer.failure);
    CHECK(answer.failure->find("99") != std::string::npos);
    CHECK(client.end() == 1);
  }
  std::string request;
  worker::write_request(request,
                        model::StoreDir(),
                        worker::Peer{},
                        worker::AddToStoreNar{info_of("x", tests::nar_of_file("x"))});
  protocol::write_frame(request, bytes_of(tests::nar_of_file("x")));
  for (std::size_t size = 1; size < request.size(); size += 37) {
    CAPTURE(size);
    Client client(server);
    client.hello();
    client.send(std::string_view(request).substr(0, size));
    CHECK(client.end() == 1);
  }
  CHECK(server.db->all_paths(server.account).empty());
}

TEST_CASE("worker session: requests sent ahead are answered in order", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  std::vector<worker::Request> requests;
  for (int i = 0; i < 200; ++i) {
    requests.push_back(worker::AddTextToStore{"text-" + std::to_string(i), "contents", {}});
    client.request(requests.back());
  }
  for (const auto& request : requests) {
    const auto path = reply_of<worker::PathReply>(client.answer(request)).path;
    CHECK(path.name() == std::get<worker::AddTextToStore>(request).name);
  }
  CHECK(client.end() == 0);
}
