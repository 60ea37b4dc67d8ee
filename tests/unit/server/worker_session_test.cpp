#include "worker_client.hpp"

#include <catch2/catch.hpp>

namespace worker_session_test {

using namespace nixbuild;
using namespace nixbuild::tests;

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

TEST_CASE("worker session: what is not offered is refused in the protocol, and the session goes on",
          "[server][reject]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto drv = path_named("x.drv");
  const std::vector<std::pair<worker::Request, std::string>> cases = {

      {worker::AddToStore{"x", {Method::Flat, HashAlgorithm::Sha256}, {}, true}, "repairing"},
      {worker::AddBuildLog{path_named("x")}, "is no derivation"},
      {worker::AddIndirectRoot{"/tmp/link"}, "links as roots"},
      {worker::AddPermRoot{drv, "/tmp/link"}, "links as roots"},
      {worker::BuildPaths{{all_of(drv)}, worker::BuildMode::Repair}, "repairing"},
      {worker::BuildPaths{{all_of(drv)}, worker::BuildMode::Check}, "does not exist in the store"},
      {worker::BuildPaths{{all_of(drv)}}, "does not exist in the store"},
      {worker::EnsurePath{drv}, "cannot be created"},
      {worker::NarFromPath{drv}, "is not valid"},
      {worker::QueryDeriver{drv}, "is not valid"},
      {worker::QueryDerivationOutputMap{drv}, "is not valid"},
      {worker::AddSignatures{drv, {"k:x"}}, "is not valid"},
      {worker::QueryPathFromHashPart{"short"}, "32 characters"},
      {worker::CollectGarbage{worker::GcAction::DeleteSpecific, false, {drv}, false, false, 0},
       "is not valid"},
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

TEST_CASE("worker session: the log of a build that was made elsewhere is kept", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const std::string log = "first line\n" + std::string(700'000, 'x') + "\n";
  CHECK(succeeded(client.ask(worker::AddBuildLog{path_named("x.drv")}, log)));
  CHECK(succeeded(client.ask(worker::AddBuildLog{path_named("y.drv")}, "")));
  CHECK(client.end() == 0);
  const auto builds = server.db->builds(server.account, 10);
  REQUIRE(builds.size() == 2);
  CHECK(builds[1].derivation == path_named("x.drv").base_name());
  CHECK(builds[1].status == model::BuildStatus::Substituted);
  CHECK(builds[1].log_bytes == log.size());
  CHECK(server.logs->read(builds[1].id, 0, 1 << 20) == log);
  CHECK(server.logs->finished(builds[1].id));
  CHECK(server.logs->finished(builds[0].id));
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
  CHECK(answer.lines() == std::vector<std::string>{"[nixbuild] build 1", "one line", "last"});
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
  CHECK(results[0].reply.result.outputs.at("out").path == output_of(top));
  CHECK(results[1].reply.result.status == model::BuildStatus::AlreadyValid);
  CHECK(answer.count<worker::StartActivity>() == 4);
  const auto& runs = server.executor.runs();
  REQUIRE(runs.size() == 4);
  for (const auto& derivation : {bottom, left, right, top}) {
    CHECK(server.db->path_info(server.account, output_of(derivation)));
  }
  missing = reply_of<worker::MissingReply>(client.ask(question));
  CHECK(missing.will_build.empty());
  CHECK(succeeded(client.ask(worker::BuildPaths{{all_of(top)}})));
  CHECK(server.executor.runs().size() == 4);
  const worker::QueryDerivationOutputMap map{top};
  CHECK(reply_of<worker::OutputMapReply>(client.ask(map)).outputs.at("out") == output_of(top));
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
    options.max_build_jobs = 1;
    options.keep_going = keep_going;
    reply_of<worker::EmptyReply>(client.ask(options));
    const auto bad = add_derivation(client, "bad", {});
    const auto slow = add_derivation(client, "slow", {});
    const auto top = add_derivation(client, "top", {bad, slow});
    const auto far = add_derivation(client, "far", {slow});
    const worker::BuildPathsWithResults wanted{
        {all_of(top), all_of(slow), all_of(far), all_of(bad)}};
    const auto answer = client.ask(wanted);
    const auto results = reply_of<worker::BuildsReply>(answer).results;
    std::map<model::StorePath, model::BuildStatus> told;
    for (const auto& [target, reply] : results) {
      told.emplace(target.path, reply.result.status);
    }
    CHECK(told.at(top) == model::BuildStatus::DependencyFailed);
    CHECK(told.at(bad) == model::BuildStatus::PermanentFailure);
    // What has no part in the failure was built, or is not told of.
    CHECK(told.contains(far) == keep_going);
    if (keep_going) {
      CHECK(told.at(slow) == model::BuildStatus::Built);
      CHECK(told.at(far) == model::BuildStatus::Built);
    }
    CHECK(answer.count<worker::StopActivity>() == answer.count<worker::StartActivity>());
    const auto failure = client.ask(worker::BuildPaths{{all_of(bad)}}).failure;
    REQUIRE(failure);
    CHECK(failure->find("exit code 1") != std::string::npos);
    CHECK(client.end() == 0);
  }
}

TEST_CASE("worker session: options of the client's Nix hold", "[server]") {
  PaperServer server([](const sandbox::ExecutionPlan& plan) {
    auto script = good_build(plan);
    script.log = {{std::string(5000, 'x')}};
    return script;
  });
  Client client(server);
  client.hello();
  const auto set = [&](unsigned jobs, const std::string& name, const std::string& value) {
    worker::SetOptions options;
    options.max_build_jobs = jobs;
    options.overrides[name] = value;
    return client.ask(options);
  };
  for (const auto* name : {"max-build-log-size", "build-max-log-size"}) {
    reply_of<worker::EmptyReply>(set(1, name, "1000"));
    const auto made = reply_of<worker::BuildReply>(client.ask(build_of("made"))).result;
    CHECK(made.status == model::BuildStatus::LogLimitExceeded);
    reply_of<worker::EmptyReply>(set(1, name, "0"));
  }
  REQUIRE(set(1, "max-build-log-size", "1k").failure);
  const auto drv = add_derivation(client, "other", {});
  reply_of<worker::EmptyReply>(set(0, "keep-failed", "true"));
  for (const worker::Request& request :
       std::vector<worker::Request>{build_of("made"),
                                    worker::BuildPaths{{all_of(drv)}},
                                    worker::BuildPathsWithResults{{all_of(drv)}}}) {
    const auto failure = client.ask(request).failure;
    REQUIRE(failure);
    CHECK(*failure == "unable to start any build: the client's option 'max-jobs' is 0");
  }
  // What is there already takes no build.
  reply_of<worker::EmptyReply>(set(1, "keep-failed", "false"));
  CHECK(succeeded(client.ask(worker::BuildPaths{{all_of(drv)}})));
  reply_of<worker::EmptyReply>(set(0, "keep-failed", "false"));
  CHECK(succeeded(client.ask(worker::BuildPaths{{all_of(drv)}})));
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: outputs of outputs are refused in the protocol", "[server][reject]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto drv = add_derivation(client, "made", {});
  const protocol::DerivedPath nested{drv, protocol::DerivedPath::Wants::Nested, {"out", "out"}};
  for (const worker::Request& request :
       std::vector<worker::Request>{worker::BuildPaths{{nested}},
                                    worker::BuildPathsWithResults{{nested}},
                                    worker::QueryMissing{{nested}}}) {
    const auto failure = client.ask(request).failure;
    REQUIRE(failure);
    CHECK(failure->find("!out!out' is an output of an output") != std::string::npos);
  }
  CHECK(succeeded(client.ask(worker::BuildPaths{{all_of(drv)}})));
  CHECK(client.end() == 0);
}

TEST_CASE("worker session: who may only read is told what is garbage", "[server]") {
  PaperServer server(good_build);
  Client client(server, worker::kNewestVersion, false);
  client.hello();
  for (const auto action : {worker::GcAction::ReturnLive, worker::GcAction::ReturnDead}) {
    const worker::CollectGarbage request{action, true, {}, false, false, 0};
    CHECK(reply_of<worker::GarbageReply>(client.ask(request)).paths.empty());
  }
  CHECK(client.end() == 0);
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

} // namespace worker_session_test
