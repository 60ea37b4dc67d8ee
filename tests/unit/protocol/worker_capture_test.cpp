// Every byte that real programs wrote over ssh-ng decodes and encodes back to itself.

#include "unit/protocol/worker_conversation.hpp"

#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>

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

/// Where two texts begin to differ, for messages.
std::size_t difference(const std::string& one, const std::string& other) {
  const auto [at, ignored] = std::mismatch(one.begin(), one.end(), other.begin(), other.end());
  return static_cast<std::size_t>(at - one.begin());
}

} // namespace

TEST_CASE("worker captures: requests decode and encode byte for byte", "[protocol][golden]") {
  for (const auto& recording : recordings("ssh-ng")) {
    CAPTURE(recording.name);
    const auto side = client_side(recording);
    CHECK(side.complete);
    const auto again = encode_worker_client(announcements(recording), side);
    CAPTURE(difference(again, recording.client));
    CHECK((again == recording.client));
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
  }
}
