// Replays fuzz targets on good inputs and on inputs that are a few changes away from them.

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/protocol/export_stream.hpp>
#include <nixbuild/sandbox/channels.hpp>
#include <nixbuild/server/handoff.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

using namespace nixbuild;

// The targets, as the build names them.
extern "C" int fuzz_build_attributes(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_build_hash_rewriter(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_builtin_fetch(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_model_text(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_protocol_export_stream(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_sandbox_channels(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_sandbox_egress(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_server_keys(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_server_log_lines(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_server_requests(const std::uint8_t* data, std::size_t size);

namespace {

using Target = int (*)(const std::uint8_t* data, std::size_t size);
using Seeds = std::vector<std::string>;

/// Each seed as it is, cut, and with bytes changed, doubled and dropped.
void replay(Target target, const Seeds& seeds, int changes = 300) {
  std::mt19937 random(7);
  std::size_t runs = 0;
  const auto run = [&](const std::string& input) {
    CHECK(target(bytes_of(input).data(), input.size()) == 0);
    ++runs;
  };
  for (const auto& seed : seeds) {
    run(seed);
    for (int change = 0; change < changes && !seed.empty(); ++change) {
      std::string changed = seed;
      for (auto edits = 1 + random() % 3; edits > 0 && !changed.empty(); --edits) {
        const auto at = random() % changed.size();
        switch (random() % 4) {
        case 0:
          changed[at] = static_cast<char>(random());
          break;
        case 1:
          changed.insert(at, changed.substr(at, 1 + random() % 9));
          break;
        case 2:
          changed.erase(at, 1 + random() % 9);
          break;
        default:
          changed.resize(at);
        }
      }
      run(changed);
    }
  }
  CHECK(runs >= seeds.size());
}

/// `kind` is the byte that chooses what a target does with the text.
std::string seed(int kind, std::string_view text) {
  return std::string(1, static_cast<char>(kind)) + std::string(text);
}

const std::string kIts = "0123456789abcdfghijklmnpqrsvwxyz";
const std::string kPath = "/nix/store/9f2xy8znfmr9mhs8g7ihximlvi1d1wmh-dep";

std::string word(std::string_view text) {
  std::string out(1, static_cast<char>(text.size()));
  out += std::string(7, '\0');
  out += text;
  return out + std::string((8 - text.size() % 8) % 8, '\0');
}

} // namespace

TEST_CASE("fuzz replay: attributes of derivations", "[fuzz]") {
  replay(fuzz_build_attributes,
         {seed(0, R"({"a":[1,2.5,"x",null,true,{"b":[]}],"outputs":["out"],"c":1e20})"),
          seed(0, R"({"outputChecks":{"out":{"maxSize":1,"allowedReferences":["out"]}}})"),
          seed(0, R"({"exportReferencesGraph":{"g":[["/nix/store/x"]]},"__noChroot":false})"),
          seed(0, std::string(200, '[') + std::string(200, ']')),
          seed(1, "graph /nix/store/x\tother /nix/store/y\n"),
          seed(1, "")});
}

TEST_CASE("fuzz replay: hash parts in a stream", "[fuzz]") {
  replay(fuzz_build_hash_rewriter,
         {seed(0, "x\xff\xbf\xdf\xff y"),
          seed(31, std::string(70, 'x') + "\xff\xff" + std::string(40, 'y') + "\xbf"),
          seed(63, "\xdf\xbf\xff"),
          seed(0, "\xfc\x34" + kIts + kIts.substr(1) + "\xf5\xd9"),
          seed(7, "")});
}

TEST_CASE("fuzz replay: where a fetch goes", "[fuzz]") {
  const std::string netrc =
      "machine a.example login me password secret\nmacdef x\nmachine no\n\ndefault login y\n";
  replay(fuzz_builtin_fetch,
         {seed(0, "http://user:p%61ss@host.example:8080/a b/c?d=e#f"),
          seed(0, "https://[::1]/x|y"),
          seed(0, "http://a%0d%0aHost:b/"),
          seed(0, "http://a%00.b/"),
          seed(1, "https://host/a/b\n../c?d"),
          seed(1, "http://host/a\n//other:1/x"),
          seed(2, "http://host.example/\n.example,other"),
          seed(3, "a.example\n" + netrc),
          seed(3, "b.example\n" + netrc)});
}

TEST_CASE("fuzz replay: names, hashes, addresses and registrations", "[fuzz]") {
  const std::string hash = "sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa";
  replay(fuzz_model_text,
         {seed(0, kPath),
          seed(1, hash),
          seed(1, "sha1-qvTGHdzF6KLavt4PO0gs2a6pQ00="),
          seed(2, "fixed:r:" + hash),
          seed(2, "text:" + hash),
          seed(3, "git:sha1"),
          seed(4, kPath + ".drv!out,dev"),
          seed(5, kPath + ".drv!*"),
          seed(6,
               kPath + "\n5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456\n120\n" +
                   kPath + ".drv\n1\n" + kPath + "\n")});
}

TEST_CASE("fuzz replay: export streams", "[fuzz]") {
  const model::StoreDir dir;
  const auto path = dir.parse(kPath);
  std::string stream;
  protocol::write_export_nar_marker(stream);
  for (const char* part : {"nix-archive-1", "(", "type", "regular", "contents", "abc", ")"}) {
    stream += word(part);
  }
  protocol::write_export_trailer(stream, dir, {path, {path}, path});
  const std::string one = stream;
  protocol::write_export_end(stream);
  replay(fuzz_protocol_export_stream,
         {seed(3, stream), seed(200, one + stream), seed(0, one.substr(0, 60)), seed(9, "")});
}

TEST_CASE("fuzz replay: frames of a guest's network", "[fuzz]") {
  // Length, Ethernet header, and the beginning of an IPv4 packet to 10.0.0.1, TCP.
  std::string frame("\0\0\0\x36", 4);
  frame += std::string(12, '\x52') + std::string("\x08\0", 2);
  frame += std::string("\x45\0\0\x28\0\0\0\0\x40\x06\0\0\x0a\0\x02\x0f\x0a\0\0\x01", 20);
  frame += std::string(20, '\x11');
  replay(fuzz_sandbox_egress,
         {seed(1, frame), seed(60, frame + frame), seed(5, frame.substr(0, 30))});
}

TEST_CASE("fuzz replay: keys and tokens", "[fuzz]") {
  const std::string blob = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
  replay(fuzz_server_keys,
         {seed(0, "ssh-ed25519 " + blob + " a comment\n"),
          seed(0, "# nothing\n\nssh-ed25519 " + blob),
          seed(1, "nixbuild-keys 1\n7 team 0 ssh-ed25519 " + blob + " laptop of x\n"),
          seed(2, std::string(64, 'a') + " team build:read 0 name\n# none\n")});
}

TEST_CASE("fuzz replay: requests, settings and configuration", "[fuzz]") {
  server::Handoff handoff;
  handoff.arguments = {"builds", "--json"};
  handoff.environment = {"NIXBUILD_X=1"};
  replay(fuzz_server_requests,
         {seed(5, "nix-store --serve 'a b' \"c\\\"d\" e\\ f ''"),
          seed(5, "'open \t\n"),
          seed(0, "/builds/7/log?follow=1&from=0"),
          seed(0, "/%62uilds?tag=a%3Db&since=2026-01-31"),
          seed(1, "2026-01-31T12:00:00.5Z"),
          seed(1, "1700000000"),
          seed(2, server::encode(handoff).substr(4)),
          seed(2, server::encode(handoff)),
          seed(3, "16"),
          seed(3, "true"),
          seed(3, "build:read build:write"),
          seed(4, "[daemon]\nidle-seconds = 5\n[sandbox]\nnetwork = \"public\"\n"),
          seed(4, "[settings]\nmax-cpu = 4\n")});
}

TEST_CASE("fuzz replay: the lines of a log", "[fuzz]") {
  replay(fuzz_server_log_lines,
         {seed(2, "one\ntwo\rthree\r\n\n@nix {\"action\":\"setPhase\",\"phase\":\"x\"}\nlast"),
          seed(250, std::string(70'000, 'x') + "\n" + std::string(10, '\r')),
          seed(0, "@nix {\"action\":\"msg\",\"level\":3,\"msg\":\"text\"}\n")},
         60);
}

TEST_CASE("fuzz replay: conversations of a store socket", "[fuzz]") {
  sandbox::Channels guest(sandbox::Channels::Side::Guest);
  for (int i = 0; i < 3; ++i) {
    const auto channel = guest.open().value();
    guest.send(channel, bytes_of("nixc with some words behind it"));
    guest.end(channel);
  }
  replay(fuzz_sandbox_channels, {seed(0, guest.outgoing()), seed(9, guest.outgoing())}, 3000);
}
