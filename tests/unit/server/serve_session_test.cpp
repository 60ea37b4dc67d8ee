#include "paper_server.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/protocol/export_stream.hpp>
#include <nixbuild/protocol/serve.hpp>
#include <nixbuild/server/serve_session.hpp>

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

namespace serve_session_test {

using namespace nixbuild;
namespace serve = protocol::serve;

namespace {

using tests::good_build;
using tests::PaperServer;
using tests::path_named;

aio::Task<void> run_serve_session(PaperServer& server,
                                  std::shared_ptr<std::array<UniqueFd, 3>> fds,
                                  bool write,
                                  std::shared_ptr<std::promise<int>> status) {
  const auto here = co_await boost::asio::this_coro::executor;
  auto in = std::make_shared<aio::ByteStream>(here, std::move((*fds)[0]));
  auto out = std::make_shared<aio::ByteStream>(here, std::move((*fds)[1]));
  auto err = std::make_shared<aio::ByteStream>(here, std::move((*fds)[2]));
  server::SessionLimits limits;
  limits.stalled = std::chrono::seconds(5);
  limits.deaf = std::chrono::seconds(1);
  const int result = co_await server::run_serve_session(server.parts,
                                                        limits,
                                                        tests::caller_of(server, write),
                                                        std::move(in),
                                                        std::move(out),
                                                        std::move(err));
  status->set_value(result);
}

/// The client's end of one session. Blocking, with a deadline on every read.
class Client {
public:
  explicit Client(PaperServer& server, bool write = true) {
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
    server.tasks.spawn("session", run_serve_session(server, fds, write, promise));
  }

  void hello(protocol::Version version = protocol::Version(2, 7)) {
    std::string bytes;
    serve::write_client_hello(bytes, version);
    send(bytes);
    version_ = *read<protocol::Version>([&] { return reader_.read_hello(version); });
  }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto count = ::write(to_.get(), bytes.data(), bytes.size());
      REQUIRE(count > 0);
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }

  void request(const serve::Request& wanted) {
    std::string bytes;
    serve::write_request(bytes, model::StoreDir(), version_, wanted);
    send(bytes);
  }

  /// Reads until `take` gives something; nothing when the server ended the session.
  template <class T>
  std::optional<T> read(const std::function<std::optional<T>()>& take) {
    for (;;) {
      if (auto got = take()) {
        return got;
      }
      std::array<std::uint8_t, 4096> buffer{};
      pollfd entry{from_.get(), POLLIN, 0};
      REQUIRE(::poll(&entry, 1, 10'000) == 1);
      const auto count = ::read(from_.get(), buffer.data(), buffer.size());
      if (count <= 0) {
        return std::nullopt;
      }
      reader_.feed(ByteView(buffer).first(static_cast<std::size_t>(count)));
    }
  }

  std::optional<model::StorePaths> paths() {
    return read<model::StorePaths>([this] { return reader_.read_paths(); });
  }

  std::optional<std::uint64_t> number() {
    return read<std::uint64_t>([this] { return reader_.read_number(); });
  }

  std::optional<model::BuildResult> result() {
    return read<model::BuildResult>([this] { return reader_.read_build_result(); });
  }

  std::string raw(std::size_t size) {
    read<bool>([&]() -> std::optional<bool> {
      return reader_.raw().size() >= size ? std::optional<bool>(true) : std::nullopt;
    });
    std::string bytes(text_of(reader_.raw().first(size)));
    reader_.consume_raw(size);
    return bytes;
  }

  serve::ReplyReader& reader() { return reader_; }

  void close_input() { to_.reset(); }

  int end() {
    to_.reset();
    REQUIRE(status_.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
    return status_.get();
  }

  std::string errors() {
    std::string text;
    std::array<char, 4096> buffer{};
    ssize_t count = 0;
    while ((count = ::recv(err_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return text;
  }

private:
  UniqueFd to_;
  UniqueFd from_;
  UniqueFd err_;
  serve::ReplyReader reader_{model::StoreDir()};
  protocol::Version version_{2, 7};
  std::future<int> status_;
};

serve::AddToStoreNar add(std::string_view name, const std::string& nar) {
  serve::AddToStoreNar request{{path_named(name), {}, {}, 0, {}, 0, false, {}, {}}};
  request.info.nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of(nar));
  request.info.nar_size = nar.size();
  return request;
}

serve::BuildDerivation build_of(std::string_view name) {
  serve::BuildDerivation request{path_named(std::string(name) + ".drv"), {}, {}};
  model::DerivationOutput output;
  output.path = path_named(name);
  request.derivation.outputs["out"] = output;
  request.derivation.platform = "x86_64-linux";
  request.derivation.builder = "/bin/sh";
  return request;
}

} // namespace

TEST_CASE("serve session: greets, adds, lists, describes and dumps", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto nar = tests::nar_of_file(std::string(100'000, 'x'));
  const auto request = add("thing", nar);
  client.request(request);
  client.send(nar);
  CHECK(client.number() == std::uint64_t{1});

  client.request(serve::QueryValidPaths{false, false, {path_named("other"), path_named("thing")}});
  CHECK(client.paths() == model::StorePaths{path_named("thing")});

  client.request(serve::QueryPathInfos{{path_named("thing"), path_named("other")}});
  const auto info = client.read<std::optional<serve::PathInfoReply>>(
      [&] { return client.reader().read_path_info(); });
  REQUIRE(info);
  REQUIRE(*info);
  CHECK((*info)->info.nar_hash == request.info.nar_hash);
  const auto end = client.read<std::optional<serve::PathInfoReply>>(
      [&] { return client.reader().read_path_info(); });
  REQUIRE(end);
  CHECK_FALSE(*end);

  client.request(serve::DumpStorePath{path_named("thing")});
  CHECK(client.raw(nar.size()) == nar);
  CHECK(client.end() == 0);
}

TEST_CASE(
    "serve session: a wrong hash, a missing reference and a bad size end it and leave nothing",
    "[server][reject]") {
  PaperServer server(good_build);
  const auto nar = tests::nar_of_file("contents");
  auto wrong_hash = add("bad", nar);
  wrong_hash.info.nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of("else"));
  auto missing_reference = add("bad", nar);
  missing_reference.info.references = {path_named("missing")};
  auto long_size = add("bad", nar);
  long_size.info.nar_size += 8;
  for (const auto& request : {wrong_hash, missing_reference, long_size}) {
    Client client(server);
    client.hello();
    client.request(request);
    client.send(nar + std::string(8, '\0'));
    CHECK_FALSE(client.number());
    CHECK(client.end() == 1);
    CHECK(client.errors().find("error: ") == 0);
    CHECK(server.db->all_paths(server.account).empty());
  }
}

TEST_CASE("serve session: a path that is valid already takes its bytes and answers 1", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto nar = tests::nar_of_file("contents");
  for (int i = 0; i < 3; ++i) {
    client.request(add("thing", nar));
    client.send(nar);
    CHECK(client.number() == std::uint64_t{1});
  }
  CHECK(client.end() == 0);
}

TEST_CASE("serve session: an export stream goes in and comes out again", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  std::string stream;
  const auto nar_a = tests::nar_of_file("a");
  const auto nar_b = tests::nar_of_file(std::string(700'000, 'b'));
  protocol::write_export_nar_marker(stream);
  stream += nar_a;
  protocol::write_export_trailer(stream, model::StoreDir(), {path_named("a"), {}, {}});
  protocol::write_export_nar_marker(stream);
  stream += nar_b;
  protocol::write_export_trailer(
      stream, model::StoreDir(), {path_named("b"), {path_named("a")}, path_named("b.drv")});
  protocol::write_export_end(stream);
  client.request(serve::ImportPaths{});
  client.send(stream);
  CHECK(client.number() == std::uint64_t{1});
  client.request(serve::ExportPaths{{path_named("a"), path_named("b")}});
  CHECK(client.raw(stream.size()) == stream);
  client.request(serve::QueryClosure{false, {path_named("b")}});
  const auto closure = client.paths();
  REQUIRE(closure);
  CHECK(closure->size() == 2);
  CHECK(client.end() == 0);
}

TEST_CASE("serve session: pipelined requests are answered in order", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  std::string all;
  serve::write_client_hello(all, protocol::Version(2, 7));
  const model::StoreDir dir;
  for (int i = 0; i < 50; ++i) {
    const auto name = "thing-" + std::to_string(i);
    const auto nar = tests::nar_of_file(name);
    serve::write_request(all, dir, protocol::Version(2, 7), add(name, nar));
    all += nar;
  }
  client.send(all);
  REQUIRE(client.read<protocol::Version>([&] { return client.reader().read_hello(); }));
  for (int i = 0; i < 50; ++i) {
    REQUIRE(client.number() == std::uint64_t{1});
  }
  CHECK(server.db->all_paths(server.account).size() == 50);
  CHECK(client.end() == 0);
}

TEST_CASE("serve session: without write permission nothing can be changed", "[server][reject]") {
  PaperServer server(good_build);
  Client client(server, false);
  client.hello();
  // What has an answer is answered, and the session goes on.
  client.request(build_of("made"));
  const auto result = client.result();
  REQUIRE(result);
  CHECK(result->status == model::BuildStatus::MiscFailure);
  CHECK(result->error == "BuildDerivation is refused: this session may not write");
  client.request(serve::BuildPaths{});
  const auto failed = client.read<std::pair<std::uint64_t, std::string>>(
      [&] { return client.reader().read_build_paths_reply(); });
  REQUIRE(failed);
  CHECK(failed->second == "BuildPaths is refused: this session may not write");
  const auto nar = tests::nar_of_file(std::string(300'000, 'x'));
  client.request(add("thing", nar));
  client.send(nar);
  CHECK(client.number() == 0U);
  CHECK(client.errors() == "error: AddToStoreNar is refused: this session may not write\n");
  client.request(serve::QueryValidPaths{false, false, {path_named("thing")}});
  CHECK(client.paths() == model::StorePaths{});
  client.request(serve::ImportPaths{});
  CHECK_FALSE(client.number());
  CHECK(client.end() == 1);
  CHECK(client.errors() == "error: ImportPaths is refused: this session may not write\n");
}

TEST_CASE("serve session: a build is run, logged, registered, and valid the next time",
          "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  client.request(build_of("made"));
  auto result = client.result();
  REQUIRE(result);
  CHECK(result->status == model::BuildStatus::Built);
  REQUIRE(result->outputs.count("out") == 1);
  CHECK(result->outputs.at("out").path == path_named("made"));
  CHECK(client.errors() == "[nixbuild] build 1\none line\n");
  const auto info = server.db->path_info(server.account, path_named("made"));
  REQUIRE(info);
  CHECK(info->deriver == path_named("made.drv"));
  CHECK(info->ultimate);
  client.request(build_of("made"));
  result = client.result();
  REQUIRE(result);
  CHECK(result->status == model::BuildStatus::AlreadyValid);
  CHECK(server.executor.runs().size() == 1);
  CHECK(client.end() == 0);
}

TEST_CASE("serve session: each way a build can fail has Nix's status and names the cause",
          "[server][reject]") {
  struct Case {
    std::function<void(tests::FakeBuild&)> change;
    std::function<void(serve::BuildDerivation&)> ask;
    model::BuildStatus status;
    std::string says;
  };

  const auto nothing = [](auto&) {
  };
  const std::vector<Case> cases = {
      {[](auto& b) { b.exit.code = 3; },
       nothing,
       model::BuildStatus::PermanentFailure,
       "exit code 3"},
      {[](auto& b) {
         b.exit.end = sandbox::GuestEnd::Signalled;
         b.exit.code = 9;
       },
       nothing,
       model::BuildStatus::PermanentFailure,
       "signal 9"},
      {[](auto& b) { b.nars = {""}; },
       nothing,
       model::BuildStatus::OutputRejected,
       "failed to produce output"},
      {nothing,
       [](auto& r) { r.derivation.platform = "vax-vms"; },
       model::BuildStatus::MiscFailure,
       "'vax-vms' machine is required"},
      {nothing,
       [](auto& r) { r.derivation.input_sources = {path_named("absent")}; },
       model::BuildStatus::MiscFailure,
       "does not exist, and substitution is disabled"},
      {nothing,
       [](auto& r) {
         auto& output = r.derivation.outputs["out"];
         output.method_algorithm = "sha256";
         output.hash = std::string(64, '0');
         output.path = model::make_content_addressed_path(
             model::StoreDir(), "made", output.fixed_address(), {}, false);
       },
       model::BuildStatus::OutputRejected,
       "hash mismatch in fixed-output derivation"},
      {nothing,
       [](auto& r) {
         auto& output = r.derivation.outputs["out"];
         output.method_algorithm = "sha256";
         output.hash = std::string(64, '0');
       },
       model::BuildStatus::InputRejected,
       "has incorrect output path"},
      {[](auto& b) { b.before_exit = std::chrono::seconds(30); },
       [](auto& r) { r.options.timeout = std::chrono::seconds(1); },
       model::BuildStatus::TimedOut,
       "timed out after 1 seconds"},
      {[](auto& b) { b.before_exit = std::chrono::seconds(30); },
       [](auto& r) { r.options.max_silent_time = std::chrono::seconds(1); },
       model::BuildStatus::TimedOut,
       "1 seconds of silence"},
      {[](auto& b) { b.log = {{std::string(5000, 'x')}}; },
       [](auto& r) { r.options.max_log_bytes = 1000; },
       model::BuildStatus::LogLimitExceeded,
       "more than 1000 bytes of log"},
      {[](auto& b) { b.lost = "the machine is gone"; },
       nothing,
       model::BuildStatus::TransientFailure,
       "was lost 4 times: the machine is gone"},
  };
  for (const auto& wanted : cases) {
    CAPTURE(wanted.says);
    PaperServer server([&](const sandbox::ExecutionPlan& plan) {
      auto script = good_build(plan);
      wanted.change(script);
      return script;
    });
    Client client(server);
    client.hello();
    auto request = build_of("made");
    wanted.ask(request);
    client.request(request);
    const auto result = client.result();
    REQUIRE(result);
    CHECK(result->status == wanted.status);
    CHECK(result->error.find(wanted.says) != std::string::npos);
    CHECK(result->outputs.empty());
    CHECK(client.end() == 0);
    // Contents with another hash than was said are kept under the name that it gives.
    const bool kept = wanted.says.starts_with("hash mismatch");
    CHECK(server.db->all_paths(server.account).size() == (kept ? 1 : 0));
    CHECK_FALSE(server.db->path_info(server.account, path_named("made")));
  }
}

TEST_CASE("serve session: a client that leaves ends its build", "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.before_exit = std::chrono::seconds(60);
    return script;
  });
  Client client(server);
  client.hello();
  client.request(build_of("made"));
  while (server.builds.running() == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(client.end() == 1);
  for (int i = 0; i < 1000 && server.builds.running() > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(server.builds.running() == 0);
}

TEST_CASE("serve session: two askers share one build and both see its whole log", "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.before_exit = std::chrono::milliseconds(300);
    return script;
  });
  Client first(server);
  Client second(server);
  first.hello();
  second.hello();
  first.request(build_of("made"));
  second.request(build_of("made"));
  for (auto* client : {&first, &second}) {
    const auto result = client->result();
    REQUIRE(result);
    CHECK(result->status == model::BuildStatus::Built);
    CHECK(client->errors() == "[nixbuild] build 1\none line\n");
  }
  CHECK(server.executor.runs().size() == 1);
}

TEST_CASE(
    "serve session: an unfinished last line ends before the error, which tells where the log is",
    "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.log.push_back({"no end"});
    script.exit.code = 3;
    return script;
  });
  Client client(server);
  client.hello();
  client.request(build_of("made"));
  const auto result = client.result();
  REQUIRE(result);
  CHECK(result->error.ends_with("failed with exit code 3\nfull log: ssh HOST nixbuild log " +
                                model::StoreDir().print(path_named("made.drv"))));
  CHECK(client.end() == 0);
  CHECK(client.errors() == "[nixbuild] build 1\none line\nno end\n");
}

TEST_CASE("serve session: a deaf client still gets its result", "[server][fault]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.log.assign(200, {std::string(16 * 1024, 'x')});
    return script;
  });
  Client client(server);
  client.hello();
  client.request(build_of("made"));
  const auto result = client.result();
  REQUIRE(result);
  CHECK(result->status == model::BuildStatus::Built);
}

TEST_CASE("serve session: nonsense and early ends give an error and no more", "[server][reject]") {
  PaperServer server(good_build);
  std::string valid;
  serve::write_client_hello(valid, protocol::Version(2, 7));
  serve::write_request(valid,
                       model::StoreDir(),
                       protocol::Version(2, 7),
                       serve::QueryValidPaths{false, false, {path_named("x")}});
  for (const std::size_t size : {4UL, 12UL, 20UL, valid.size() - 1}) {
    CAPTURE(size);
    Client client(server);
    client.send(std::string_view(valid).substr(0, size));
    CHECK(client.end() == 1);
  }
  Client silent(server);
  CHECK(silent.end() == 0);
  Client nonsense(server);
  nonsense.send("GET / HTTP/1.1\r\n\r\n");
  CHECK(nonsense.end() == 1);
  CHECK(nonsense.errors().find("error: ") == 0);
}

} // namespace serve_session_test
