// Every byte that real programs wrote decodes and encodes back to itself.

#include "unit/protocol/conversation.hpp"

#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <random>

namespace serve_capture_test {

using namespace nixbuild;
using namespace nixbuild::test;

namespace {

constexpr std::size_t kWhole = std::size_t{1} << 30;

template <class Side>
bool begins_with(const std::vector<Side>& whole, const std::vector<Side>& beginning) {
  return beginning.size() <= whole.size() &&
         std::equal(beginning.begin(), beginning.end(), whole.begin());
}

/// The last request of a cut stream may have less of its NAR.
bool no_request_invented(const std::vector<Asked>& whole, std::vector<Asked> beginning) {
  if (!beginning.empty() && beginning.size() <= whole.size()) {
    const auto& full = whole[beginning.size() - 1].raw;
    auto& last = beginning.back().raw;
    if (!full.starts_with(last)) {
      return false;
    }
    last = full;
  }
  return begins_with(whole, beginning);
}

} // namespace

TEST_CASE("serve captures: there are recordings of every program", "[protocol][golden]") {
  const auto all = recordings();
  CHECK(all.size() == 60);
  std::size_t builds = 0;
  std::size_t uploads = 0;
  std::size_t dumps = 0;
  for (const auto& recording : all) {
    for (const auto& asked :
         decode_client(recording.client, announced_version(recording.server), kWhole).requests) {
      builds += std::holds_alternative<serve::BuildDerivation>(asked.request) ? 1U : 0U;
      uploads += std::holds_alternative<serve::AddToStoreNar>(asked.request) ? 1U : 0U;
      dumps += std::holds_alternative<serve::DumpStorePath>(asked.request) ? 1U : 0U;
    }
  }
  CHECK(builds == 32);
  CHECK(uploads > 10);
  CHECK(dumps > 10);
}

TEST_CASE("serve captures: requests decode and encode byte for byte", "[protocol][golden]") {
  for (const auto& recording : recordings()) {
    CAPTURE(recording.name);
    const auto client = announced_version(recording.client);
    const auto server = announced_version(recording.server);
    const auto side = decode_client(recording.client, server, kWhole);
    CHECK(side.complete);
    const auto again = encode_client(client, std::min(client, server), side.requests);
    CHECK((again == recording.client));
    for (const std::size_t cut : {1U, 7U, 64U}) {
      CHECK((decode_client(recording.client, server, cut) == side));
    }
  }
}

TEST_CASE("serve captures: replies decode and encode byte for byte", "[protocol][golden]") {
  for (const auto& recording : recordings()) {
    CAPTURE(recording.name);
    const auto client = announced_version(recording.client);
    const auto server = announced_version(recording.server);
    const auto requests = decode_client(recording.client, server, kWhole).requests;
    const auto side = decode_server(recording.server, client, requests, kWhole);
    CHECK(side.complete);
    const auto again = encode_server(server, std::min(client, server), side.replies);
    CHECK((again == recording.server));
    for (const std::size_t cut : {1U, 7U, 64U}) {
      CHECK((decode_server(recording.server, client, requests, cut) == side));
    }
  }
}

TEST_CASE("serve captures: servers name outputs by the hash that we compute",
          "[protocol][golden]") {
  const model::StoreDir dir;
  std::size_t compared = 0;
  for (const auto& recording : recordings()) {
    CAPTURE(recording.name);
    const auto requests =
        decode_client(recording.client, announced_version(recording.server), kWhole).requests;
    const auto replies =
        decode_server(recording.server, announced_version(recording.client), requests, kWhole)
            .replies;
    for (std::size_t i = 0; i < replies.size(); ++i) {
      const auto* build = std::get_if<serve::BuildDerivation>(&requests[i].request);
      if (build == nullptr || std::get<Result>(replies[i]).keys.empty()) {
        continue;
      }
      CHECK(model::realisation_hashes(dir, build->derivation) == std::get<Result>(replies[i]).keys);
      ++compared;
    }
  }
  CHECK(compared >= 15);
}

TEST_CASE("serve captures: a stream that ends anywhere invents nothing", "[protocol][property]") {
  for (const auto& recording : recordings()) {
    CAPTURE(recording.name);
    const auto client = announced_version(recording.client);
    const auto server = announced_version(recording.server);
    const auto whole = decode_client(recording.client, server, kWhole);
    bool good = true;
    for (std::size_t size = 0; size < recording.client.size(); ++size) {
      const auto side = decode_client(recording.client.substr(0, size), server, kWhole);
      good = good && no_request_invented(whole.requests, side.requests);
    }
    CHECK(good);
    const auto replies = decode_server(recording.server, client, whole.requests, kWhole);
    bool good_replies = true;
    for (std::size_t size = 0; size < recording.server.size(); ++size) {
      const auto side =
          decode_server(recording.server.substr(0, size), client, whole.requests, kWhole);
      good_replies = good_replies && !side.complete && begins_with(replies.replies, side.replies);
    }
    CHECK(good_replies);
  }
}

TEST_CASE("serve captures: changed bytes give a value or an Error", "[protocol][property]") {
  std::size_t refused = 0;
  for (const auto& recording : recordings()) {
    const auto client = announced_version(recording.client);
    const auto server = announced_version(recording.server);
    const auto requests = decode_client(recording.client, server, kWhole).requests;
    std::minstd_rand random(7);
    for (int round = 0; round < 200; ++round) {
      auto changed_client = recording.client;
      auto changed_server = recording.server;
      for (int change = 0; change <= round % 3; ++change) {
        changed_client[random() % changed_client.size()] ^= static_cast<char>(1U << random() % 8);
        changed_server[random() % changed_server.size()] ^= static_cast<char>(1U << random() % 8);
      }
      try {
        static_cast<void>(decode_client(changed_client, server, kWhole));
      } catch (const Error&) {
        ++refused;
      }
      try {
        static_cast<void>(decode_server(changed_server, client, requests, kWhole));
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 1000);
}

} // namespace serve_capture_test
