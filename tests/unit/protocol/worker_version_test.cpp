// Every message of every version and set of features decodes to what was encoded.

#include "unit/protocol/worker_samples.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <set>

namespace worker_version_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::protocol::worker;
using namespace nixbuild::test;

namespace {

const model::StoreDir kDir;

/// A reader that has the greeting of such a client behind it.
RequestReader greeted_server(const Peer& peer) {
  RequestReader reader(kDir);
  std::string bytes;
  write_client_hello(bytes, peer.version);
  write_client_greeting(bytes, peer.version, peer.features);
  reader.feed(bytes_of(bytes));
  while (reader.greeting()) {
  }
  CHECK(reader.peer() == peer);
  return reader;
}

ReplyReader greeted_client(const Peer& peer) {
  ReplyReader reader(kDir);
  std::string bytes;
  write_hello(bytes, peer.version);
  if (peer.version >= Version{1, 38}) {
    write_features(bytes, peer.features);
  }
  write_welcome(bytes, peer, "9.9", Trust::Trusted);
  reader.feed(bytes_of(bytes));
  const auto welcome = reader.read_welcome();
  REQUIRE(welcome);
  CHECK(welcome->peer == peer);
  CHECK(welcome->daemon_version == (peer.version >= Version{1, 33} ? "9.9" : ""));
  CHECK(welcome->trust == (peer.version >= Version{1, 35} ? Trust::Trusted : Trust::Unknown));
  CHECK(reader.at_boundary());
  return reader;
}

std::string described(const Peer& peer) {
  std::string out = std::to_string(peer.version.minor_number());
  for (const auto& feature : peer.features) {
    out += " " + feature;
  }
  return out;
}

std::string request_bytes(const Request& request, const Peer& peer) {
  std::string out;
  write_request(out, kDir, peer, request);
  return out;
}

std::string reply_bytes(const worker::Reply& reply, const Peer& peer) {
  std::string out;
  write_reply(out, kDir, peer, reply);
  return out;
}

/// Feeds single bytes; `read` gives nothing before the last of them.
template <class Reader, class Read>
auto read_bytewise(Reader& reader, const std::string& bytes, Read read) {
  bool early = false;
  auto out = read(reader);
  for (const char& byte : bytes) {
    early = early || out.has_value();
    reader.feed(bytes_of({&byte, 1}));
    out = read(reader);
  }
  CHECK(!early);
  CHECK(reader.at_boundary());
  return out;
}

} // namespace

TEST_CASE("worker versions: every request of every version comes back", "[protocol]") {
  std::set<std::size_t> seen;
  for (const auto& peer : all_peers()) {
    CAPTURE(described(peer));
    auto whole = greeted_server(peer);
    auto bytewise = greeted_server(peer);
    for (const auto& exchange : sample_exchanges(peer)) {
      CAPTURE(name_of(exchange.request));
      seen.insert(exchange.request.index());
      const auto bytes = request_bytes(exchange.request, peer);
      whole.feed(bytes_of(bytes));
      CHECK((whole.next() == exchange.request));
      CHECK(whole.at_boundary());
      const auto again =
          read_bytewise(bytewise, bytes, [](RequestReader& reader) { return reader.next(); });
      CHECK((again == exchange.request));
    }
  }
  CHECK(seen.size() == std::variant_size_v<Request>);
}

TEST_CASE("worker versions: every reply of every version comes back", "[protocol]") {
  std::set<std::size_t> seen;
  for (const auto& peer : all_peers()) {
    CAPTURE(described(peer));
    auto whole = greeted_client(peer);
    for (const auto& exchange : sample_exchanges(peer)) {
      CAPTURE(name_of(exchange.request));
      for (const auto& reply : exchange.replies) {
        seen.insert(reply.index());
        const auto bytes = reply_bytes(reply, peer);
        whole.feed(bytes_of(bytes));
        CHECK((whole.read_reply(exchange.request) == reply));
        CHECK(whole.at_boundary());
        if (bytes.empty()) {
          continue;
        }
        const auto again = read_bytewise(
            whole, bytes, [&](ReplyReader& reader) { return reader.read_reply(exchange.request); });
        CHECK((again == reply));
      }
    }
  }
  CHECK(seen.size() == std::variant_size_v<worker::Reply>);
}

TEST_CASE("worker versions: every message of the stderr channel comes back", "[protocol]") {
  for (const auto& peer : all_peers()) {
    CAPTURE(described(peer));
    auto reader = greeted_client(peer);
    for (const auto& message : sample_log(peer)) {
      std::string bytes;
      write_log(bytes, peer, message);
      const auto again =
          read_bytewise(reader, bytes, [](ReplyReader& client) { return client.read_log(); });
      CHECK((again == message));
    }
  }
}

TEST_CASE("worker versions: activities are not sent below 1.20", "[protocol]") {
  std::string out;
  const Peer old{Version{1, 19}, {}};
  write_log(out, old, StartActivity{});
  write_log(out, old, StopActivity{});
  write_log(out, old, ActivityResult{});
  CHECK(out.empty());
  write_log(out, {Version{1, 20}, {}}, StopActivity{1});
  CHECK(hex_encode(bytes_of(out)) == "504f5453000000000100000000000000");
}

TEST_CASE("worker versions: operations begin with their version", "[protocol]") {
  const std::vector<std::pair<std::uint64_t, unsigned>> first{
      {40, 19}, {41, 22}, {42, 27}, {43, 27}, {44, 32}, {45, 32}, {46, 34}, {47, 36}};
  for (const auto& exchange : sample_exchanges({kNewestVersion, {}})) {
    const auto number = operation_of(exchange.request);
    for (const auto& [late, minor] : first) {
      if (late != number) {
        continue;
      }
      CAPTURE(number);
      // Its sample has a target that only later versions can name.
      const Request request = number == 40 ? Request(QueryMissing{}) : exchange.request;
      std::string out;
      CHECK_NOTHROW(write_request(out, kDir, {Version(1, minor), {}}, request));
      CHECK_THROWS_AS(write_request(out, kDir, {Version(1, minor - 1), {}}, request), Error);
    }
  }
}

TEST_CASE("worker versions: the payload's form follows from the version", "[protocol]") {
  const auto at = [](const Request& request, unsigned minor) {
    return payload_of(request, {Version(1, minor), {}});
  };
  const AddToStore add{};
  const AddToStoreNar nar{.info = {.path = sample_path("a"),
                                   .deriver = {},
                                   .nar_hash = {},
                                   .nar_size = 1,
                                   .references = {},
                                   .registration_time = 0,
                                   .ultimate = false,
                                   .signatures = {},
                                   .content_address = {}},
                          .repair = false,
                          .dont_check_signatures = false};
  CHECK(at(add, 24) == Payload::Nar);
  CHECK(at(add, 25) == Payload::Framed);
  CHECK(at(nar, 20) == Payload::Nar);
  CHECK(at(nar, 21) == Payload::Pulled);
  CHECK(at(nar, 22) == Payload::Pulled);
  CHECK(at(nar, 23) == Payload::Framed);
  CHECK(at(AddMultipleToStore{}, 32) == Payload::Framed);
  CHECK(at(AddBuildLog{sample_path("a.drv")}, 34) == Payload::Framed);
  CHECK(at(IsValidPath{sample_path("a")}, 38) == Payload::None);
}

TEST_CASE("worker versions: fields come and go with their versions", "[protocol]") {
  const auto size = [](const Request& request, unsigned minor) {
    return request_bytes(request, {Version(1, minor), {}}).size();
  };
  CHECK(size(QueryValidPaths{}, 26) + 8 == size(QueryValidPaths{}, 27));
  const auto result = [](unsigned minor) {
    return reply_bytes(BuildReply{}, {Version(1, minor), {}}).size();
  };
  CHECK(result(27) == 16);                 // status, message
  CHECK(result(28) == result(27) + 8);     // outputs
  CHECK(result(29) == result(28) + 4 * 8); // times built, determinism, start, stop
  CHECK(result(36) == result(29));
  CHECK(result(37) == result(36) + 2 * 8); // CPU times, absent
}

TEST_CASE("worker versions: who builds paths themselves only reads", "[protocol]") {
  const auto path = model::StorePath::parse("00000000000000000000000000000000-x");
  const DerivedPath itself{path, DerivedPath::Wants::Path, {}};
  const DerivedPath outputs{path, DerivedPath::Wants::AllOutputs, {}};
  CHECK(permission_of(BuildPaths{{itself}}) == Permission::StoreRead);
  CHECK(permission_of(BuildPathsWithResults{{itself, itself}}) == Permission::StoreRead);
  CHECK(permission_of(BuildPaths{{itself, outputs}}) == Permission::BuildWrite);
  CHECK(permission_of(BuildPaths{}) == Permission::BuildWrite);
  CHECK(permission_of(BuildPathsWithResults{{outputs}}) == Permission::BuildWrite);
  CHECK(permission_of(BuildPaths{{itself}, BuildMode::Check}) == Permission::BuildWrite);
  CHECK(permission_of(BuildPathsWithResults{{itself}, BuildMode::Repair}) ==
        Permission::BuildWrite);
}

TEST_CASE("worker versions: the operations' numbers, names and permissions", "[protocol]") {
  std::map<std::string, std::string> permissions;
  std::set<std::uint64_t> numbers;
  for (const auto& exchange : sample_exchanges({kNewestVersion, {}})) {
    numbers.insert(operation_of(exchange.request));
    permissions[std::string(name_of(exchange.request))] =
        protocol::name_of(permission_of(exchange.request));
  }
  CHECK(numbers == std::set<std::uint64_t>{1,  6,  7,  8,  9,  10, 11, 12, 13, 14, 18, 19, 20,
                                           21, 22, 23, 26, 28, 29, 30, 31, 32, 33, 34, 35, 36,
                                           37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47});
  const std::set<std::string> builds{
      "BuildPaths", "BuildDerivation", "BuildPathsWithResults", "AddBuildLog"};
  const std::set<std::string> writes{"AddToStore",
                                     "AddTextToStore",
                                     "AddIndirectRoot",
                                     "AddSignatures",
                                     "AddToStoreNar",
                                     "RegisterDrvOutput",
                                     "AddMultipleToStore",
                                     "AddPermRoot"};
  const std::set<std::string> upkeep{"CollectGarbage"};
  for (const auto& [name, permission] : permissions) {
    CAPTURE(name);
    CHECK(permission == (builds.contains(name)   ? "BuildWrite"
                         : writes.contains(name) ? "StoreWrite"
                         : upkeep.contains(name) ? "AccountWrite"
                                                 : "StoreRead"));
  }
}

} // namespace worker_version_test
