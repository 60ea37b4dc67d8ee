// Every byte that real programs wrote over ssh-ng decodes and encodes back to itself.

#include "unit/protocol/worker_conversation.hpp"

#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <random>

namespace worker_capture_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::test;

namespace {

constexpr std::size_t kWhole = std::size_t{1} << 30;

WorkerClientSide client_side(const Recording& recording) {
  return decode_worker_client(recording.client, announcements(recording).server, kWhole);
}

WorkerServerSide server_side(const Recording& recording) {
  return decode_worker_server(
      recording.server, announcements(recording).client, client_side(recording).requests, kWhole);
}

constexpr std::array kLogNames{"LogText",
                               "DataWanted",
                               "DataGiven",
                               "Last",
                               "Failure",
                               "StartActivity",
                               "StopActivity",
                               "ActivityResult"};

/// Where two texts begin to differ, for messages.
std::size_t difference(const std::string& one, const std::string& other) {
  const auto [at, ignored] = std::mismatch(one.begin(), one.end(), other.begin(), other.end());
  return static_cast<std::size_t>(at - one.begin());
}

} // namespace

TEST_CASE("worker captures: there are recordings of every program", "[protocol][golden]") {
  std::map<std::string, int> requests;
  std::map<std::string, int> versions;
  std::map<std::string, int> messages;
  for (const auto& recording : recordings("ssh-ng")) {
    const auto side = client_side(recording);
    ++versions[std::to_string(side.peer.version.minor_number()) +
               (side.peer.features.empty() ? "" : " with features")];
    for (const auto& asked : side.requests) {
      ++requests[std::string(worker::name_of(asked.request))];
    }
    for (const auto& answer : server_side(recording).answers) {
      for (const auto& message : answer.log) {
        ++messages[kLogNames.at(message.index())];
      }
    }
  }
  using Counts = std::map<std::string, int>;
  CHECK((versions == Counts{{"34", 37}, {"35", 8}, {"38", 20}, {"38 with features", 16}}));
  CHECK((requests == Counts{{"AddMultipleToStore", 47},
                            {"BuildDerivation", 32},
                            {"BuildPathsWithResults", 12},
                            {"NarFromPath", 35},
                            {"QueryMissing", 18},
                            {"QueryPathInfo", 57},
                            {"QueryValidPaths", 54}}));
  CHECK((messages == Counts{{"ActivityResult", 618},
                            {"Last", 255},
                            {"StartActivity", 227},
                            {"StopActivity", 227}}));
}

TEST_CASE("worker captures: requests decode and encode byte for byte", "[protocol][golden]") {
  for (const auto& recording : recordings("ssh-ng")) {
    CAPTURE(recording.name);
    const auto side = client_side(recording);
    CHECK(side.complete);
    const auto again = encode_worker_client(announcements(recording), side);
    CAPTURE(difference(again, recording.client));
    CHECK((again == recording.client));
    for (const std::size_t cut : {1U, 7U, 64U}) {
      CHECK((decode_worker_client(recording.client, announcements(recording).server, cut) == side));
    }
  }
}

TEST_CASE("worker captures: answers decode and encode byte for byte", "[protocol][golden]") {
  for (const auto& recording : recordings("ssh-ng")) {
    CAPTURE(recording.name);
    const auto side = server_side(recording);
    CHECK(side.complete);
    const auto again = encode_worker_server(announcements(recording), side);
    CAPTURE(difference(again, recording.server));
    CHECK((again == recording.server));
    const auto requests = client_side(recording).requests;
    for (const std::size_t cut : {1U, 7U, 64U}) {
      CHECK((decode_worker_server(
                 recording.server, announcements(recording).client, requests, cut) == side));
    }
  }
}

TEST_CASE("worker captures: uploads of many paths decode and encode byte for byte",
          "[protocol][golden]") {
  std::size_t uploads = 0;
  for (const auto& recording : recordings("ssh-ng")) {
    CAPTURE(recording.name);
    for (const auto& asked : client_side(recording).requests) {
      if (std::holds_alternative<worker::AddMultipleToStore>(asked.request)) {
        for (const std::size_t cut : {std::size_t{1}, std::size_t{7}, kWhole}) {
          CHECK((again_path_info_stream(asked.payload(), cut) == asked.payload()));
        }
        ++uploads;
      }
    }
  }
  CHECK(uploads > 20);
}

TEST_CASE("worker captures: servers name outputs by the hash that we compute",
          "[protocol][golden]") {
  const model::StoreDir dir;
  std::size_t compared = 0;
  for (const auto& recording : recordings("ssh-ng")) {
    CAPTURE(recording.name);
    const auto requests = client_side(recording).requests;
    const auto answers = server_side(recording).answers;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const auto* build = std::get_if<worker::BuildDerivation>(&requests[i].request);
      if (build == nullptr || !answers[i].reply) {
        continue;
      }
      const auto& reply = std::get<worker::BuildReply>(*answers[i].reply);
      if (!reply.keys.empty()) {
        CHECK(model::realisation_hashes(dir, build->derivation) == reply.keys);
        ++compared;
      }
    }
  }
  CHECK(compared >= 10);
}

TEST_CASE("worker captures: a stream that ends anywhere invents nothing", "[protocol][property]") {
  for (const auto& recording : recordings("ssh-ng")) {
    CAPTURE(recording.name);
    const auto announced = announcements(recording);
    const auto whole = client_side(recording);
    const auto whole_answers = server_side(recording);
    bool good = true;
    for (std::size_t size = 0; size < recording.client.size(); size += 3) {
      const auto side =
          decode_worker_client(recording.client.substr(0, size), announced.server, kWhole);
      good = good && side.requests.size() <= whole.requests.size();
      for (std::size_t i = 0; good && i < side.requests.size(); ++i) {
        good = side.requests[i].request == whole.requests[i].request &&
               whole.requests[i].payload().starts_with(side.requests[i].payload());
      }
    }
    for (std::size_t size = 0; size < recording.server.size(); size += 3) {
      const auto side = decode_worker_server(
          recording.server.substr(0, size), announced.client, whole.requests, kWhole);
      good = good && !side.complete && side.answers.size() <= whole_answers.answers.size() &&
             std::equal(side.answers.begin(), side.answers.end(), whole_answers.answers.begin());
    }
    CHECK(good);
  }
}

TEST_CASE("worker captures: changed bytes give a value or an Error", "[protocol][property]") {
  std::size_t refused = 0;
  const auto count_refusal = [&](auto call) {
    try {
      static_cast<void>(call());
    } catch (const Error&) {
      ++refused;
    }
  };
  for (const auto& recording : recordings("ssh-ng")) {
    const auto announced = announcements(recording);
    const auto requests = client_side(recording).requests;
    std::minstd_rand random(7);
    for (int round = 0; round < 100; ++round) {
      auto client = recording.client;
      auto server = recording.server;
      for (int change = 0; change <= round % 3; ++change) {
        client[random() % client.size()] ^= static_cast<char>(1U << random() % 8);
        server[random() % server.size()] ^= static_cast<char>(1U << random() % 8);
      }
      count_refusal([&] { return decode_worker_client(client, announced.server, kWhole); });
      count_refusal(
          [&] { return decode_worker_server(server, announced.client, requests, kWhole); });
    }
  }
  CHECK(refused > 1000);
}

} // namespace worker_capture_test
