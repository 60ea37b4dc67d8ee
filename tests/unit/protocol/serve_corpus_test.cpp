// Replays the fuzzing corpus and the captures, and inputs that are a few changes away from them.

#include "unit/protocol/conversation.hpp"

#include <catch2/catch.hpp>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

namespace serve_corpus_test {

using namespace nixbuild;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

/// A recorded stream as input of the fuzz target.
std::string seed(char kind, protocol::Version version, char cut, std::string_view body) {
  std::string out{kind, static_cast<char>(version.minor_number() - 1), cut};
  out += body;
  return out;
}

std::vector<std::string> seeds() {
  std::vector<std::string> out;
  for (const auto& file : std::filesystem::directory_iterator(TEST_DATA_DIR "/protocol/corpus")) {
    out.push_back(test::read_file(file.path()));
  }
  REQUIRE(out.size() >= 8);
  for (const auto& recording : test::recordings()) {
    const auto version = std::min(test::announced_version(recording.client),
                                  test::announced_version(recording.server));
    out.push_back(seed(0, version, 6, std::string_view(recording.client).substr(16)));
  }
  return out;
}

} // namespace

TEST_CASE("serve fuzzing: corpus, captures and their neighbours keep the invariants",
          "[protocol][property]") {
  std::minstd_rand random(3);
  for (const auto& input : seeds()) {
    LLVMFuzzerTestOneInput(bytes_of(input).data(), input.size());
    for (int round = 0; round < 150; ++round) {
      auto changed = input;
      for (int change = 0; change <= round % 3; ++change) {
        changed[random() % changed.size()] ^= static_cast<char>(1U << random() % 8);
      }
      if (round % 5 == 0) {
        changed.erase(random() % changed.size(), 8 * (random() % 8));
      }
      LLVMFuzzerTestOneInput(bytes_of(changed).data(), changed.size());
    }
  }
}

} // namespace serve_corpus_test
