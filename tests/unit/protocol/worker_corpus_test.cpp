// Replays the worker protocol's fuzz targets on every sample, on the captures, and on inputs that
// are a few changes away from them.

#include "unit/protocol/worker_conversation.hpp"
#include "unit/protocol/worker_samples.hpp"

#include <catch2/catch.hpp>

#include <random>
#include <string>
#include <vector>

namespace worker_corpus_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::test;

// The targets, as the build names them.
extern "C" int fuzz_worker_request(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_worker_reply(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_framed(const std::uint8_t* data, std::size_t size);

namespace {

const model::StoreDir kDir;
constexpr std::size_t kWhole = std::size_t{1} << 30;

using Target = int (*)(const std::uint8_t* data, std::size_t size);

char minor_byte(const worker::Peer& peer) {
  return static_cast<char>(peer.version.minor_number() - worker::kOldestVersion.minor_number());
}

char features_byte(const worker::Peer& peer) {
  int out = 0;
  for (const auto& feature : peer.features) {
    out |= feature == worker::kRealisationWithPath ? 1 : 2;
  }
  return static_cast<char>(out);
}

std::string request_seed(const worker::Peer& peer, std::string_view stream) {
  return std::string{minor_byte(peer), features_byte(peer), 6} + std::string(stream);
}

/// `kind` is the reply's place in worker::Reply, or 0 for messages of the stderr channel.
std::string reply_seed(const worker::Peer& peer, std::size_t kind, std::string_view stream) {
  return std::string{static_cast<char>(kind), minor_byte(peer), features_byte(peer), 6} +
         std::string(stream);
}

std::vector<std::string> request_seeds() {
  std::vector<std::string> out;
  for (const auto& peer : all_peers()) {
    for (const auto& exchange : sample_exchanges(peer)) {
      std::string stream;
      worker::write_request(stream, kDir, peer, exchange.request);
      if (worker::payload_of(exchange.request, peer) == worker::Payload::Pulled) {
        worker::write_pulled(stream, bytes_of("abc"));
        worker::write_pulled(stream, {});
      } else {
        write_frame(stream, bytes_of("abc"));
        write_end_of_frames(stream);
      }
      out.push_back(request_seed(peer, stream));
    }
  }
  for (const auto& recording : recordings("ssh-ng")) {
    const auto announced = announcements(recording);
    const auto side = decode_worker_client(recording.client, announced.server, kWhole);
    std::string greeting;
    worker::write_client_hello(greeting, announced.client.version);
    worker::write_client_greeting(greeting, side.peer.version, announced.client.features);
    out.push_back(
        request_seed(side.peer, std::string_view(recording.client).substr(greeting.size())));
  }
  return out;
}

/// A realisation of the output that the target asks for.
std::string zero_realisation() {
  std::string out;
  const worker::DrvOutput id{Hash(), "out"};
  worker::write_reply(out,
                      kDir,
                      {Version{1, 34}, {}},
                      worker::RealisationsReply{id, {{sample_path("a"), {"k:AAAA"}}}});
  return out;
}

std::vector<std::string> reply_seeds() {
  std::vector<std::string> out;
  for (const auto& peer : all_peers()) {
    std::string log;
    for (const auto& message : sample_log(peer)) {
      worker::write_log(log, peer, message);
    }
    out.push_back(reply_seed(peer, 0, log));
    for (const auto& exchange : sample_exchanges(peer)) {
      for (const auto& reply : exchange.replies) {
        std::string stream;
        worker::write_reply(stream, kDir, peer, reply);
        out.push_back(reply_seed(peer, reply.index(), stream));
      }
    }
  }
  const worker::Reply realisations = worker::RealisationsReply{};
  out.push_back(reply_seed({Version{1, 34}, {}}, realisations.index(), zero_realisation()));
  return out;
}

std::vector<std::string> framed_seeds() {
  std::vector<std::string> out;
  for (const auto& recording : recordings("ssh-ng")) {
    const auto announced = announcements(recording);
    for (const auto& asked :
         decode_worker_client(recording.client, announced.server, kWhole).requests) {
      if (std::holds_alternative<worker::AddMultipleToStore>(asked.request)) {
        std::string stream{6};
        for (const auto& frame : asked.frames) {
          write_frame(stream, bytes_of(frame));
        }
        write_end_of_frames(stream);
        out.push_back(stream);
      }
    }
  }
  return out;
}

void replay(Target target, const std::vector<std::string>& seeds, int rounds) {
  std::minstd_rand random(3);
  for (const auto& input : seeds) {
    target(bytes_of(input).data(), input.size());
    for (int round = 0; round < rounds; ++round) {
      auto changed = input;
      for (int change = 0; change <= round % 3; ++change) {
        changed[random() % changed.size()] ^= static_cast<char>(1U << random() % 8);
      }
      if (round % 5 == 0) {
        changed.erase(random() % changed.size(), 8 * (random() % 8));
      }
      CHECK(target(bytes_of(changed).data(), changed.size()) == 0);
    }
  }
}

} // namespace

TEST_CASE("worker fuzzing: requests and their neighbours keep the invariants",
          "[protocol][property]") {
  const auto seeds = request_seeds();
  CHECK(seeds.size() > 600);
  replay(fuzz_worker_request, seeds, 40);
}

TEST_CASE("worker fuzzing: replies, messages and their neighbours keep the invariants",
          "[protocol][property]") {
  const auto seeds = reply_seeds();
  CHECK(seeds.size() > 600);
  replay(fuzz_worker_reply, seeds, 40);
}

TEST_CASE("worker fuzzing: framed streams and their neighbours keep the invariants",
          "[protocol][property]") {
  const auto seeds = framed_seeds();
  CHECK(seeds.size() == 47);
  replay(fuzz_framed, seeds, 200);
}

} // namespace worker_corpus_test
