#include "worker_client.hpp"

#include <nixbuild/nar/writer.hpp>

#include <catch2/catch.hpp>

namespace worker_import_test {

using namespace nixbuild;
using namespace nixbuild::tests;

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
  // Git's name for that file, and the path that Nix makes of such an address.
  const auto git =
      add(file_by("hello", Method::Git, HashAlgorithm::Sha1), tests::nar_of_file("hello"));
  const auto address = model::parse_content_address(git.content_address);
  CHECK(model::hash_hex(address.hash) == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
  CHECK(git.path ==
        model::make_content_addressed_path(model::StoreDir(), "hello", address, {}, false));
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

TEST_CASE("worker import: clients that frame nothing add files and trees as archives", "[server]") {
  for (const unsigned minor : {18U, 24U}) {
    CAPTURE(minor);
    PaperServer server(good_build);
    Client client(server, protocol::Version(1, minor));
    client.hello();
    const auto add = [&](const worker::AddToStore& request) {
      const auto answer = client.ask(request, nar_of_file("hello"));
      return reply_of<worker::PathReply>(answer).path.base_name();
    };
    // As with frames, and the NAR's hash by another algorithm.
    CHECK(add(file_by("hello", Method::NixArchive)) == "yqi18hzk6wxzj2ksv7x9k8rnnzwirzz9-hello");
    CHECK(add(file_by("hello", Method::Flat)) == "3fhdhfqli6qm669f7sz8d8v6xz24zrqc-hello");
    CHECK(add(file_by("hello", Method::Flat, HashAlgorithm::Md5)) ==
          "cjjgh51g19my6qswi7m4371f5892dxs9-hello");
    CHECK(succeeded(client.ask(worker::SyncWithGC{})));
    CHECK(client.end() == 0);
  }
}

TEST_CASE("worker import: archives are named by every algorithm", "[server]") {
  for (const unsigned minor : {24U, 38U}) {
    CAPTURE(minor);
    PaperServer server(good_build);
    Client client(server, protocol::Version(1, minor));
    client.hello();
    const auto nar = nar_of_file(std::string(1'000'000, 'x'));
    for (const auto algorithm : {HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha512}) {
      const auto request = file_by("tree", Method::NixArchive, algorithm);
      REQUIRE_FALSE(client.ask(request, nar).failure);
      const model::ContentAddress address{Method::NixArchive, hash_of(algorithm, bytes_of(nar))};
      const auto path =
          model::make_content_addressed_path(model::StoreDir(), "tree", address, {}, false);
      const auto info = server.db->path_info(server.account, path);
      REQUIRE(info);
      CHECK(info->content_address == model::print(address));
    }
    CHECK(client.end() == 0);
  }
}

TEST_CASE("worker import: what an old client sends as a file must be one", "[server][reject]") {
  PaperServer server(good_build);
  Client client(server, protocol::Version(1, 24));
  client.hello();
  std::string nar;
  StringSink sink(nar);
  nar::Writer writer(sink);
  writer.symlink("target");
  writer.finish();
  const auto answer = client.ask(file_by("x", Method::Flat), nar);
  REQUIRE(answer.failure);
  CHECK(answer.failure->find("regular file") != std::string::npos);
  // Nobody knows where the archive ends.
  CHECK(client.end() == 1);
  CHECK(server.db->all_paths(server.account).empty());
}

TEST_CASE("worker import: derivations that make a path are known before it is there", "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  const auto derivation = add_derivation(client, "made", {});
  add_derivation(client, "made-2", {});
  const worker::QueryValidDerivers makers{output_of(derivation)};
  CHECK(reply_of<worker::PathsReply>(client.ask(makers)).paths == model::StorePaths{derivation});
  const worker::QueryValidDerivers nobody{path_named("made-2-dev")};
  CHECK(reply_of<worker::PathsReply>(client.ask(nobody)).paths.empty());
  CHECK(client.end() == 0);
}

} // namespace worker_import_test
