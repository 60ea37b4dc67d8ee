// Replays the fuzzing corpus, and inputs that are one change away from it.

#include <nixbuild/base/bytes.hpp>

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

using namespace nixbuild;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("derivation fuzzing: the corpus and its neighbours keep the invariants",
          "[model][property]") {
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(TEST_DATA_DIR "/model/corpus")) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::string input{std::istreambuf_iterator<char>(in), {}};
    ++files;
    LLVMFuzzerTestOneInput(bytes_of(input).data(), input.size());
    std::minstd_rand random(1);
    for (int round = 0; round < 2000; ++round) {
      auto changed = input;
      changed[random() % changed.size()] ^= static_cast<char>(1U << random() % 8);
      if (round % 3 == 0) {
        changed.erase(random() % changed.size(), random() % 16);
      }
      LLVMFuzzerTestOneInput(bytes_of(changed).data(), changed.size());
    }
  }
  CHECK(files >= 7);
}
