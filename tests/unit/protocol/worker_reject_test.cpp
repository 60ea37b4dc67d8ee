// The greeting step by step, and what neither side takes.

#include "unit/protocol/worker_samples.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <stdexcept>

namespace worker_reject_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::protocol::worker;
using namespace nixbuild::test;

namespace {

const model::StoreDir kDir;
const Peer kPlain{kNewestVersion, {}};
const Peer kFull{kNewestVersion, known_features()};

std::string word(std::uint64_t value) {
  std::string out;
  write_path_count(out, value);
  return out;
}

std::string string(const std::string& text) {
  return word(text.size()) + text + std::string((8 - text.size() % 8) % 8, '\0');
}

std::string full(const std::string& name) {
  return string(kDir.print(sample_path(name)));
}

RequestReader server_for(const Peer& peer, const Limits& limits = {}) {
  RequestReader reader(kDir, limits);
  std::string bytes;
  write_client_hello(bytes, peer.version);
  write_client_greeting(bytes, peer.version, peer.features);
  reader.feed(bytes_of(bytes));
  while (reader.greeting()) {
  }
  return reader;
}

ReplyReader client_for(const Peer& peer, const Limits& limits = {}) {
  ReplyReader reader(kDir, limits);
  std::string bytes;
  write_hello(bytes, peer.version);
  if (peer.version >= Version{1, 38}) {
    write_features(bytes, peer.features);
  }
  write_welcome(bytes, peer, "", Trust::Unknown);
  reader.feed(bytes_of(bytes));
  CHECK(reader.read_welcome());
  return reader;
}

/// The code that `call` is refused with, now and ever after.
template <class Call>
std::string code_of(Call call) {
  try {
    static_cast<void>(call());
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Reject);
    CHECK_THROWS_WITH(call(), error.what());
    return error.code();
  }
  return {};
}

std::string
request_code(const std::string& bytes, const Peer& peer = kPlain, const Limits& limits = {}) {
  auto reader = server_for(peer, limits);
  reader.feed(bytes_of(bytes));
  return code_of([&] { return reader.next(); });
}

std::string
reply_code(const Request& request, const std::string& bytes, const Peer& peer = kPlain) {
  auto reader = client_for(peer);
  reader.feed(bytes_of(bytes));
  return code_of([&] { return reader.read_reply(request); });
}

std::string log_code(const std::string& bytes, const Peer& peer = kPlain) {
  auto reader = client_for(peer);
  reader.feed(bytes_of(bytes));
  return code_of([&] { return reader.read_log(); });
}

std::string hello_code(const std::string& bytes) {
  RequestReader server(kDir);
  server.feed(bytes_of(bytes));
  return code_of([&] {
    while (server.greeting()) {
    }
    return 0;
  });
}

constexpr std::uint64_t kError = 0x63787470;
constexpr std::uint64_t kStart = 0x53545254;
constexpr std::uint64_t kResult = 0x52534c54;
constexpr std::uint64_t kTwoTo32 = std::uint64_t{1} << 32;

} // namespace

TEST_CASE("worker greeting: the hello's bytes", "[protocol][golden]") {
  std::string client;
  write_client_hello(client);
  CHECK(hex_encode(bytes_of(client)) == "6378696e000000002601000000000000");
  std::string server;
  write_hello(server);
  CHECK(hex_encode(bytes_of(server)) == "6f697864000000002601000000000000");
}

TEST_CASE("worker greeting: an old client is answered after its first 8 bytes", "[protocol]") {
  RequestReader reader(kDir);
  CHECK(reader.at_boundary());
  CHECK(!reader.greeting());
  std::string hello;
  write_client_hello(hello, Version{1, 21});
  reader.feed(bytes_of(hello.substr(0, 7)));
  CHECK(!reader.greeting());
  reader.feed(bytes_of(hello.substr(7, 1)));
  CHECK(reader.greeting() == GreetingStep::Hello);
  CHECK(!reader.greeting());
  CHECK(!reader.at_boundary());
  reader.feed(bytes_of(hello.substr(8)));
  CHECK(!reader.greeting());
  CHECK(!reader.peer());
  reader.feed(bytes_of(word(1) + word(77))); // CPU affinity with its mask
  CHECK(!reader.greeting());
  reader.feed(bytes_of(word(0)));
  CHECK(reader.greeting() == GreetingStep::Welcome);
  CHECK(!reader.greeting());
  CHECK(reader.peer() == Peer{Version{1, 21}, {}});
  CHECK(reader.at_boundary());
}

TEST_CASE("worker greeting: features are answered once the client's are there", "[protocol]") {
  RequestReader reader(kDir);
  std::string bytes;
  write_client_hello(bytes, Version{1, 39});
  reader.feed(bytes_of(bytes));
  CHECK(reader.greeting() == GreetingStep::Hello);
  CHECK(!reader.greeting());
  reader.feed(bytes_of(word(2) + string("unheard-of") + string(std::string(kRealisationWithPath))));
  CHECK(reader.greeting() == GreetingStep::FeatureList);
  CHECK(!reader.greeting());
  reader.feed(bytes_of(word(0) + word(0)));
  CHECK(!reader.next());
  CHECK(reader.greeting() == GreetingStep::Welcome);
  CHECK(reader.peer() == Peer{Version{1, 38}, {std::string(kRealisationWithPath)}});
}

TEST_CASE("worker greeting: a server may announce less", "[protocol]") {
  RequestReader reader(kDir, {}, Version{1, 35}, {});
  std::string bytes;
  write_client_hello(bytes, Version{1, 38});
  write_client_greeting(bytes, Version{1, 35}, known_features());
  reader.feed(bytes_of(bytes));
  CHECK(reader.greeting() == GreetingStep::Hello);
  CHECK(reader.greeting() == GreetingStep::Welcome);
  CHECK(reader.peer() == Peer{Version{1, 35}, {}});
}

TEST_CASE("worker greeting: other protocols and versions are refused", "[protocol][reject]") {
  CHECK(hello_code(word(0x390c9deb)) == "worker.magic");
  CHECK(hello_code(word(kClientMagic) + word(0x111)) == "worker.version");
  CHECK(hello_code(word(kClientMagic) + word(0x200)) == "worker.version");
  CHECK(hello_code(word(kClientMagic) + word(kTwoTo32 + 0x126)) == "worker.version");
  CHECK(hello_code(word(kClientMagic) + word(0x112)).empty());
  CHECK(hello_code(word(kClientMagic) + word(0x126) + word(kTwoTo32)) == "wire.limit");
  ReplyReader client(kDir);
  client.feed(bytes_of(word(0x5452eecb)));
  CHECK(code_of([&] { return client.read_hello(); }) == "worker.magic");
  ReplyReader wary(kDir);
  wary.feed(bytes_of(word(kServerMagic) + word(0x125) + string("2.20") + word(3)));
  CHECK(wary.read_hello() == Version{1, 37});
  CHECK(code_of([&] { return wary.read_welcome(); }) == "worker.trust");
}

TEST_CASE("worker replies: none is read before the greeting", "[protocol]") {
  ReplyReader reader(kDir);
  try {
    static_cast<void>(reader.read_log());
    FAIL("it was read");
  } catch (const Error& error) {
    CHECK(error.code() == "worker.greeting");
    CHECK(error.reaction() == Reaction::Internal);
  }
}

TEST_CASE("worker requests: removed and unknown operations are invalid", "[protocol][reject]") {
  for (const std::uint64_t number : {0U, 2U, 3U, 4U, 5U, 16U, 24U, 25U, 27U, 48U, 1000U, 1001U}) {
    CAPTURE(number);
    CHECK(request_code(word(number)) == "worker.operation");
  }
  CHECK(request_code(word(kTwoTo32 + 1)) == "worker.operation");
  CHECK(request_code(word(46), {Version{1, 33}, {}}) == "worker.operation");
  auto reader = server_for(kPlain);
  reader.feed(bytes_of(word(99)));
  CHECK_THROWS_WITH(reader.next(), "invalid operation 99");
}

TEST_CASE("worker requests: modes, actions and methods are checked", "[protocol][reject]") {
  CHECK(request_code(word(9) + word(0) + word(2)).empty());
  CHECK(request_code(word(9) + word(0) + word(3)) == "worker.mode");
  const auto zeros = word(0) + word(0) + word(0) + word(0) + word(0) + word(0);
  CHECK(request_code(word(20) + word(3) + zeros).empty());
  CHECK(request_code(word(20) + word(4) + zeros) == "worker.action");
  const auto add = [](const std::string& method) {
    return request_code(word(7) + string("n") + string(method) + word(0) + word(0));
  };
  CHECK(add("fixed:r:sha256").empty());
  CHECK(add("sha256") == "worker.method");
  CHECK(add("fixed:text:sha256") == "worker.method");
  CHECK(add("text:sha1") == "hash.algorithm");
  CHECK(add("fixed:sha3") == "hash.algorithm");
  const auto old = [](std::uint64_t recursive, const std::string& algorithm) {
    return request_code(word(7) + string("n") + word(1) + word(recursive) + string(algorithm),
                        {Version{1, 24}, {}});
  };
  CHECK(old(1, "sha1").empty());
  CHECK(old(2, "sha1") == "worker.method");
  CHECK(old(1, "sha3") == "worker.method");
}

TEST_CASE("worker requests: padding, integers and texts are checked", "[protocol][reject]") {
  auto padded = word(1) + full("a");
  padded.back() = 'x';
  CHECK(request_code(padded) == "wire.padding");
  CHECK(request_code(word(35) + word(kTwoTo32) + word(0)) == "wire.integer");
  CHECK(request_code(word(9) + word(0) + word(kTwoTo32)) == "wire.integer");
  CHECK(request_code(word(31) + word(0) + word(kTwoTo32)) == "wire.integer");
  CHECK(request_code(word(12) + string(std::string("a\0b", 3))) == "wire.string");
  CHECK(request_code(word(8) + string("n") + string(std::string("a\0b", 3)) + word(0)).empty());
}

TEST_CASE("worker requests: paths, derivations and targets are checked", "[protocol][reject]") {
  CHECK(request_code(word(1) + string("/tmp/x")) == "store-path.outside");
  CHECK(request_code(word(45) + full("a.drv")) == "store-path.hash");
  CHECK(request_code(word(36) + full("a") + word(0) + word(0) + string("p") + string("b") +
                     word(0) + word(0) + word(0)) == "derivation.path");
  CHECK(request_code(word(40) + word(1) + string(kDir.print(sample_path("a")) + "!out")) ==
        "derived-path.form");
  CHECK(request_code(word(43) + string("sha256:00!out")) == "wire.realisation");
  CHECK(request_code(word(43) + full("a.drv") + string("o/t"), kFull) == "wire.realisation");
  CHECK(request_code(word(42) + string("{}")) == "wire.realisation");
}

TEST_CASE("worker requests: limits hold before anything is received", "[protocol][reject]") {
  const Limits limits{.string_bytes = 100, .elements = 3, .message_bytes = 1000};
  const auto code = [&](const std::string& bytes) {
    return request_code(bytes, kPlain, limits);
  };
  CHECK(code(word(1) + word(100)).empty());
  CHECK(code(word(1) + word(101)) == "wire.limit");
  CHECK(code(word(1) + word(~std::uint64_t{0})) == "wire.limit");
  CHECK(code(word(31) + word(3)).empty());
  CHECK(code(word(31) + word(4)) == "wire.limit");
  CHECK(code(word(31) + word(~std::uint64_t{0})) == "wire.limit");
  const Limits small{.string_bytes = 100, .elements = 100, .message_bytes = 100};
  CHECK(request_code(word(31) + word(2) + full("a") + word(60), kPlain, small) == "wire.limit");
}

TEST_CASE("worker requests: an end of file within a request is no end", "[protocol]") {
  const auto bytes = word(31) + word(1) + full("a") + word(0);
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    auto reader = server_for(kPlain);
    reader.feed(bytes_of(std::string_view(bytes).substr(0, size)));
    CHECK(!reader.next());
    CHECK(!reader.at_boundary());
  }
}

TEST_CASE("worker requests: a NAR that is pulled comes in strings", "[protocol]") {
  auto reader = server_for({Version{1, 21}, {}});
  std::string bytes;
  write_pulled(bytes, bytes_of("abc"));
  write_pulled(bytes, {});
  reader.feed(bytes_of(bytes.substr(0, 10)));
  CHECK(!reader.next_pulled(3));
  reader.feed(bytes_of(bytes.substr(10)));
  CHECK(reader.next_pulled(3) == "abc");
  CHECK(reader.next_pulled(3) == "");
  CHECK(!reader.next_pulled(3));
  reader.feed(bytes_of(word(4)));
  CHECK(code_of([&] { return reader.next_pulled(3); }) == "worker.pulled");
}

TEST_CASE("worker replies: statuses and realisations are checked", "[protocol][reject]") {
  const auto request_named = [](const Peer& peer, std::string_view name) {
    for (const auto& exchange : sample_exchanges(peer)) {
      if (name_of(exchange.request) == name) {
        return exchange.request;
      }
    }
    throw std::runtime_error("there is no such request");
  };
  const auto times = word(0) + word(0) + word(0) + word(0);
  const auto derivation = request_named(kPlain, "BuildDerivation");
  CHECK(
      reply_code(derivation, word(14) + string("") + times + word(0) + word(0) + word(0)).empty());
  CHECK(reply_code(derivation, word(15) + string("") + times + word(0) + word(0) + word(0)) ==
        "wire.status");
  CHECK(reply_code(request_named(kPlain, "QueryDerivationOutputMap"),
                   word(1) + string("o/t") + string("")) == "wire.realisation");
  const auto query = request_named(kPlain, "QueryRealisation");
  const auto realisation = [](char digit, const std::string& output) {
    return string("{\"id\":\"sha256:" + std::string(64, digit) + "!" + output +
                  "\",\"outPath\":\"" + sample_path("a").base_name() + "\"}");
  };
  CHECK(reply_code(query, word(1) + realisation('1', "out")) == "wire.realisation");
  CHECK(reply_code(query, word(2) + realisation('1', "out") + realisation('2', "out")) ==
        "wire.realisation");
  CHECK(reply_code(QueryRealisation{{Hash(), "out"}}, word(1) + realisation('0', "out")).empty());
}

TEST_CASE("worker replies: messages of the stderr channel are checked", "[protocol][reject]") {
  CHECK(log_code(word(0x12345678)) == "worker.message");
  const auto error = [](const std::string& type, std::uint64_t level, std::uint64_t position) {
    return word(kError) + string(type) + word(level) + string("Error") + string("m") +
           word(position) + word(0);
  };
  CHECK(log_code(error("Error", 7, 0)).empty());
  CHECK(log_code(error("Failure", 0, 0)) == "worker.message");
  CHECK(log_code(error("Error", 8, 0)) == "worker.message");
  CHECK(log_code(error("Error", 0, 1)) == "worker.message");
  CHECK(log_code(word(kError) + string("Error") + word(0) + string("Error") + string("m") +
                 word(0) + word(1) + word(1) + string("hint")) == "worker.message");
  CHECK(log_code(word(kResult) + word(1) + word(101) + word(1) + word(2) + string("x")) ==
        "worker.message");
  CHECK(log_code(word(kResult) + word(1) + word(kTwoTo32) + word(0)) == "wire.integer");
  CHECK(log_code(word(kStart) + word(1) + word(8) + word(0) + string("") + word(0) + word(0)) ==
        "worker.message");
  CHECK(log_code(word(kResult) + word(1) + word(101) + word(kTwoTo32)) == "wire.limit");
  auto padded = word(kResult) + word(1) + word(101) + word(1) + word(1) + string("abc");
  padded.back() = 'x';
  CHECK(log_code(padded) == "wire.padding");
}

TEST_CASE("worker writers: what a version cannot say is refused", "[protocol][reject]") {
  const auto code = [](const Request& request, const Peer& peer) {
    std::string out;
    return code_of([&] {
      write_request(out, kDir, peer, request);
      return 0;
    });
  };
  const DrvOutput by_path{sample_path("a.drv"), "out"};
  const DrvOutput by_hash{Hash(), "out"};
  CHECK(code(QueryRealisation{by_path}, kPlain) == "worker.realisation");
  CHECK(code(QueryRealisation{by_hash}, kFull) == "worker.realisation");
  CHECK(code(AddToStore{"n", {model::ContentAddressMethod::Text, {}}, {}, false},
             {Version{1, 24}, {}}) == "worker.method");
  CHECK(code(BuildPaths{{{sample_path("a.drv"), DerivedPath::Wants::Path, {}}}, {}},
             {Version{1, 29}, {}}) == "derived-path.form");
  CHECK(code(AddPermRoot{sample_path("a"), ""}, {Version{1, 35}, {}}) == "worker.operation");
  const model::Realisation one{sample_path("a"), {}};
  std::string out;
  CHECK(code_of([&] {
          write_reply(out, kDir, kFull, RealisationsReply{by_path, {one, one}});
          return 0;
        }) == "worker.realisation");
}

TEST_CASE("worker writers: an output without a hash is named by zeros", "[protocol]") {
  BuildReply reply;
  reply.result.status = model::BuildStatus::Built;
  reply.result.outputs.emplace("out", model::Realisation{sample_path("a"), {}});
  std::string out;
  write_reply(out, kDir, kPlain, reply);
  CHECK(out.find("sha256:" + std::string(64, '0') + "!out") != std::string::npos);
  std::string plain;
  write_reply(plain, kDir, kFull, reply);
  CHECK(plain.find("sha256:") == std::string::npos);
}

} // namespace worker_reject_test
