#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <catch2/catch.hpp>

#include <chrono>
#include <string>

namespace serve_request_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::protocol::serve;

namespace {

const model::StoreDir kDir;
const std::string kHash = "7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4";

model::StorePath path(const std::string& name) {
  return model::StorePath::parse(kHash + "-" + name);
}

std::string word(std::uint64_t value) {
  std::string out;
  write_number(out, value);
  return out;
}

std::string string(const std::string& text) {
  return word(text.size()) + text + std::string((8 - text.size() % 8) % 8, '\0');
}

std::string full(const std::string& name) {
  return string("/nix/store/" + kHash + "-" + name);
}

std::string hello(Version version) {
  std::string out;
  write_client_hello(out, version);
  return out;
}

/// A reader that has the hello of a client behind it.
RequestReader reader_at(Version version, const Limits& limits = {}) {
  RequestReader reader(kDir, limits, kNewestVersion);
  reader.feed(bytes_of(hello(version)));
  CHECK(reader.version() == version);
  return reader;
}

std::string
code_of(const std::string& bytes, Version version = kNewestVersion, const Limits& limits = {}) {
  auto reader = reader_at(version, limits);
  reader.feed(bytes_of(bytes));
  try {
    static_cast<void>(reader.next());
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Reject);
    return error.code();
  }
  return {};
}

model::BasicDerivation sample_derivation() {
  model::BasicDerivation out;
  out.outputs["out"].path = path("a");
  out.outputs["dev"].path = path("a-dev");
  out.input_sources = {path("s"), path("t")};
  out.platform = "x86_64-linux";
  out.builder = "/bin/sh";
  out.arguments = {"-c", "true"};
  out.environment = {{"a", "1"}, {"b", ""}};
  return out;
}

/// Options as a client of this version can say them.
model::BuildOptions sample_options(Version version) {
  model::BuildOptions out;
  out.max_silent_time = std::chrono::seconds(5);
  out.timeout = std::chrono::seconds(0xffffffff);
  if (version >= Version{2, 2}) {
    out.max_log_bytes = std::uint64_t{1} << 40;
  }
  if (version >= Version{2, 3}) {
    out.repeats = 0;
    out.enforce_determinism = true;
  }
  if (version >= Version{2, 7}) {
    out.keep_failed = true;
  }
  return out;
}

std::vector<Request> sample_requests(Version version) {
  model::PathInfo info{.path = path("p"),
                       .deriver = path("p.drv"),
                       .nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of("x")),
                       .nar_size = 123456789012,
                       .references = {path("a"), path("p")},
                       .registration_time = 1700000000,
                       .ultimate = true,
                       .signatures = {"k:AAAA"},
                       .content_address = "text:sha256:x"};
  std::vector<Request> out{
      QueryValidPaths{true, true, {path("b"), path("a")}},
      QueryPathInfos{{path("a")}},
      DumpStorePath{path("a")},
      ExportPaths{{path("a"), path("b")}},
      BuildPaths{{"/nix/store/x!out", "y"}, sample_options(version)},
      QueryClosure{true, {}},
      BuildDerivation{path("a.drv"), sample_derivation(), sample_options(version)},
      ImportPaths{}};
  if (version >= Version{2, 5}) {
    out.emplace_back(AddToStoreNar{info});
    info.deriver.reset();
    info.references.clear();
    info.content_address.clear();
    out.emplace_back(AddToStoreNar{info});
  }
  return out;
}

std::string build_derivation_bytes(const std::string& outputs, const std::string& options) {
  return word(8) + full("a.drv") + outputs + word(0) + string("p") + string("b") + word(0) +
         word(0) + options;
}

const std::string kOneOutput = word(1) + string("out") + full("a") + string("") + string("");
const std::string kOptions = word(0) + word(0) + word(0) + word(0) + word(0) + word(0);

} // namespace

TEST_CASE("serve requests: the hello's bytes", "[protocol][golden]") {
  std::string client;
  write_client_hello(client, Version{2, 7});
  CHECK(hex_encode(bytes_of(client)) == "eb9d0c39000000000702000000000000");
  std::string server;
  write_hello(server, Version{2, 7});
  CHECK(hex_encode(bytes_of(server)) == "cbee5254000000000702000000000000");
  server.clear();
  write_hello(server);
  CHECK(hex_encode(bytes_of(server)) == "cbee5254000000000802000000000000");
}

TEST_CASE("serve requests: the bytes of an empty QueryValidPaths", "[protocol][golden]") {
  std::string out;
  write_request(out, kDir, Version{2, 7}, QueryValidPaths{});
  CHECK(hex_encode(bytes_of(out)) == "01" + std::string(62, '0'));
}

TEST_CASE("serve requests: the greeting is due after the magic alone", "[protocol]") {
  RequestReader reader(kDir);
  CHECK(reader.at_boundary());
  const auto bytes = hello(Version{2, 5});
  reader.feed(bytes_of(bytes.substr(0, 7)));
  CHECK_FALSE(reader.magic_received());
  reader.feed(bytes_of(bytes.substr(7, 1)));
  CHECK(reader.magic_received());
  CHECK_FALSE(reader.version());
  CHECK_FALSE(reader.next());
  CHECK_FALSE(reader.at_boundary());
  reader.feed(bytes_of(bytes.substr(8)));
  CHECK(reader.version() == Version{2, 5});
  CHECK(reader.at_boundary());
}

TEST_CASE("serve requests: the smaller version counts", "[protocol]") {
  const auto agreed = [](Version client, Version server) {
    RequestReader reader(kDir, {}, server);
    reader.feed(bytes_of(hello(client)));
    return reader.version();
  };
  CHECK(agreed(Version{2, 8}, Version{2, 7}) == Version{2, 7});
  CHECK(agreed(Version{2, 5}, Version{2, 7}) == Version{2, 5});
  CHECK(agreed(Version{2, 200}, Version{2, 8}) == Version{2, 8});
}

TEST_CASE("serve requests: refuses foreign peers", "[protocol][reject]") {
  const auto code = [](const std::string& bytes) -> std::string {
    RequestReader reader(kDir);
    reader.feed(bytes_of(bytes));
    try {
      static_cast<void>(reader.version());
    } catch (const Error& error) {
      return error.code();
    }
    return {};
  };
  CHECK(code("GET / HTTP/1.1\r\n") == "serve.magic");
  CHECK(code(word(kServerMagic)) == "serve.magic");
  CHECK(code(word(kClientMagic | std::uint64_t{1} << 32)) == "serve.magic");
  CHECK(code(hello(Version{2, 0})) == "serve.version");
  CHECK(code(hello(Version{1, 9})) == "serve.version");
  CHECK(code(hello(Version{3, 0})) == "serve.version");
  CHECK(code(word(kClientMagic) + word((std::uint64_t{1} << 32) + 0x207)) == "serve.version");
}

TEST_CASE("serve requests: every request crosses in every version", "[protocol][roundtrip]") {
  for (unsigned minor = 1; minor <= 8; ++minor) {
    const Version version(2, minor);
    for (const auto& request : sample_requests(version)) {
      std::string bytes;
      write_request(bytes, kDir, version, request);
      auto reader = reader_at(version);
      reader.feed(bytes_of(bytes));
      const auto back = reader.next();
      REQUIRE(back);
      CHECK((*back == request));
      CHECK(reader.at_boundary());
      std::string again;
      write_request(again, kDir, version, *back);
      CHECK((again == bytes));
    }
  }
}

TEST_CASE("serve requests: names, numbers, permission", "[protocol]") {
  const auto requests = sample_requests(Version{2, 7});
  const std::vector<std::pair<std::string, std::uint64_t>> expected{{"QueryValidPaths", 1},
                                                                    {"QueryPathInfos", 2},
                                                                    {"DumpStorePath", 3},
                                                                    {"ExportPaths", 5},
                                                                    {"BuildPaths", 6},
                                                                    {"QueryClosure", 7},
                                                                    {"BuildDerivation", 8},
                                                                    {"ImportPaths", 4},
                                                                    {"AddToStoreNar", 9}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(name_of(requests[i]) == expected[i].first);
    CHECK(command_of(requests[i]) == expected[i].second);
    const auto number = expected[i].second;
    CHECK(needs_write(requests[i]) == (number == 4 || number == 6 || number == 8 || number == 9));
    CHECK(permission_of(requests[i]) == (number == 6 || number == 8   ? Permission::BuildWrite
                                         : number == 4 || number == 9 ? Permission::StoreWrite
                                                                      : Permission::StoreRead));
  }
}

TEST_CASE("serve requests: unknown and newer commands are refused", "[protocol][reject]") {
  CHECK(code_of(word(0)) == "serve.command");
  CHECK(code_of(word(10)) == "serve.command");
  CHECK(code_of(word((std::uint64_t{1} << 32) + 1)) == "serve.command");
  CHECK(code_of(word(9), Version{2, 4}) == "serve.command");
  CHECK(code_of(word(9), Version{2, 5}).empty());
  std::string out;
  CHECK_THROWS_AS(write_request(out, kDir, Version{2, 4}, sample_requests(Version{2, 5}).back()),
                  Error);
}

TEST_CASE("serve requests: padding, integers and texts are checked", "[protocol][reject]") {
  auto padded = word(3) + full("a");
  padded.back() = 'x';
  CHECK(code_of(padded) == "wire.padding");
  CHECK(code_of(word(1) + word(std::uint64_t{1} << 32) + word(0) + word(0)) == "wire.integer");
  CHECK(code_of(word(7) + word(std::uint64_t{1} << 32) + word(0)) == "wire.integer");
  CHECK(code_of(word(6) + word(1) + string(std::string("a\0b", 3)) + kOptions) == "wire.string");
  CHECK(code_of(build_derivation_bytes(kOneOutput, kOptions)).empty());
  auto options = kOptions;
  options[4] = 1; // maxSilentTime of 2^32
  CHECK(code_of(build_derivation_bytes(kOneOutput, options)) == "wire.integer");
  options = kOptions;
  options[20] = 1; // maxLogSize of 2^32 bytes is fine
  CHECK(code_of(build_derivation_bytes(kOneOutput, options)).empty());
}

TEST_CASE("serve requests: paths, hashes and derivations are checked", "[protocol][reject]") {
  CHECK(code_of(word(3) + string("/tmp/x")) == "store-path.outside");
  CHECK(code_of(word(3) + string("/nix/store/x")) == "store-path.hash");
  CHECK(code_of(word(3) + full("a/b")) == "store-path.outside");
  CHECK(code_of(word(3) + full(".")) == "store-path.name");
  CHECK(code_of(word(9) + full("a") + string("") + string("zz") + word(0) + word(0) + word(1) +
                word(0) + word(0) + string("")) == "hash.length");
  CHECK(code_of(word(8) + full("a") + kOneOutput + word(0) + string("p") + string("b") + word(0) +
                word(0) + kOptions) == "derivation.path");
  const auto output = [](const std::string& name, const std::string& hash) {
    return string(name) + full("a") + string("") + string(hash);
  };
  CHECK(code_of(build_derivation_bytes(word(1) + output("o/t", ""), kOptions)) ==
        "derivation.output");
  CHECK(code_of(build_derivation_bytes(word(1) + output("out", "00"), kOptions)) ==
        "derivation.output");
  CHECK(code_of(build_derivation_bytes(word(2) + output("out", "") + output("out", ""),
                                       kOptions)) == "derivation.outputs");
}

TEST_CASE("serve requests: limits hold before anything is received", "[protocol][reject]") {
  const Limits limits{.string_bytes = 100, .elements = 3, .message_bytes = 1000};
  const auto code = [&](const std::string& bytes) {
    return code_of(bytes, kNewestVersion, limits);
  };
  CHECK(code(word(3) + word(101)) == "wire.limit");
  CHECK(code(word(3) + word(100)).empty());
  CHECK(code(word(3) + word(~std::uint64_t{0})) == "wire.limit");
  CHECK(code(word(2) + word(4)) == "wire.limit");
  CHECK(code(word(2) + word(3)).empty());
  CHECK(code(word(2) + word(~std::uint64_t{0})) == "wire.limit");
  const Limits small{.string_bytes = 100, .elements = 100, .message_bytes = 100};
  CHECK(code_of(word(2) + word(2) + full("a") + word(60), kNewestVersion, small) == "wire.limit");
}

TEST_CASE("serve requests: a dead reader says the same error again", "[protocol][reject]") {
  auto reader = reader_at(Version{2, 7});
  reader.feed(bytes_of(word(99)));
  CHECK_THROWS_AS(reader.next(), Error);
  reader.feed(bytes_of(word(4)));
  CHECK_THROWS_WITH(reader.next(), Catch::Contains("command 99"));
}

TEST_CASE("serve requests: errors name message and field", "[protocol][reject]") {
  auto reader = reader_at(Version{2, 7});
  reader.feed(bytes_of(word(1) + word(0) + word(0) + word(1) + string("/tmp/x")));
  CHECK_THROWS_WITH(reader.next(), Catch::StartsWith("QueryValidPaths: paths: "));
}

TEST_CASE("serve requests: pipelined requests and raw bytes come one after the other",
          "[protocol]") {
  auto reader = reader_at(Version{2, 7});
  std::string bytes;
  model::PathInfo info = std::get<AddToStoreNar>(sample_requests(Version{2, 7}).back()).info;
  info.nar_size = 5;
  write_request(bytes, kDir, Version{2, 7}, AddToStoreNar{info});
  bytes += "12345";
  write_request(bytes, kDir, Version{2, 7}, DumpStorePath{path("a")});
  reader.feed(bytes_of(bytes));
  CHECK((reader.next() == Request(AddToStoreNar{info})));
  CHECK(text_of(reader.raw().first(5)) == "12345");
  reader.consume_raw(5);
  CHECK((reader.next() == Request(DumpStorePath{path("a")})));
  CHECK(reader.at_boundary());
}

TEST_CASE("serve requests: path lists keep the client's order, sets are sorted", "[protocol]") {
  auto reader = reader_at(Version{2, 7});
  reader.feed(bytes_of(word(2) + word(3) + full("b") + full("a") + full("b")));
  CHECK((reader.next() == Request(QueryPathInfos{{path("b"), path("a"), path("b")}})));
  const auto hash = model::hash_hex(Hash());
  reader.feed(bytes_of(word(9) + full("a") + string("") + string("sha256:" + hash) + word(3) +
                       full("b") + full("a") + full("b") + word(0) + word(8) + word(0) + word(0) +
                       string("")));
  const auto add = reader.next();
  REQUIRE(add);
  CHECK(std::get<AddToStoreNar>(*add).info.references == model::StorePaths{path("a"), path("b")});
}

TEST_CASE("serve requests: of two equal variables the later one counts", "[protocol]") {
  auto reader = reader_at(Version{2, 7});
  reader.feed(bytes_of(word(8) + full("a.drv") + kOneOutput + word(0) + string("p") + string("b") +
                       word(0) + word(2) + string("k") + string("1") + string("k") + string("2") +
                       kOptions));
  const auto request = reader.next();
  REQUIRE(request);
  CHECK(std::get<BuildDerivation>(*request).derivation.environment ==
        std::map<std::string, std::string>{{"k", "2"}});
}

TEST_CASE("serve requests: decoding takes time linear in the bytes however they are cut",
          "[protocol][slow]") {
  constexpr std::size_t kPaths = 100'000;
  QueryValidPaths query;
  for (std::size_t i = 0; i < kPaths; ++i) {
    query.paths.push_back(path("package-number-" + std::to_string(i)));
  }
  std::string bytes;
  write_request(bytes, kDir, Version{2, 7}, query);
  const auto time_of = [&](std::size_t cut) {
    auto reader = reader_at(Version{2, 7});
    std::optional<Request> request;
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t at = 0; at < bytes.size(); at += cut) {
      reader.feed(bytes_of(std::string_view(bytes).substr(at, cut)));
      request = reader.next();
    }
    const auto spent = std::chrono::steady_clock::now() - start;
    REQUIRE(request);
    CHECK(std::get<QueryValidPaths>(*request).paths.size() == kPaths);
    return std::chrono::duration_cast<std::chrono::milliseconds>(spent);
  };
  // Quadratic decoding needs minutes; the bounds leave room for sanitizers and a busy machine.
  const auto whole = time_of(bytes.size());
  const auto pieces = time_of(4096);
  const auto single_bytes = time_of(1);
  INFO("whole " << whole.count() << " ms, 4 KiB pieces " << pieces.count() << " ms, single bytes "
                << single_bytes.count() << " ms");
  CHECK(whole.count() < 2000);
  CHECK(pieces.count() < 2000);
  CHECK(single_bytes.count() < 20'000);
}

} // namespace serve_request_test
