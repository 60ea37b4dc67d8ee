// Replays the fuzzing corpus, and inputs that are one change away from it.

#include "unit/nar/random_tree.hpp"

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

using namespace nixbuild;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("nar fuzzing: the corpus and its neighbours keep the invariants", "[nar][fuzz]") {
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(TEST_DATA_DIR "/nar/corpus")) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::string input{std::istreambuf_iterator<char>(in), {}};
    ++files;
    LLVMFuzzerTestOneInput(bytes_of(input).data(), input.size());
    test::TreeGenerator random(files);
    for (int round = 0; round < 300 && !input.empty(); ++round) {
      auto changed = input;
      changed[random.below(changed.size())] ^= static_cast<char>(1U << random.below(8));
      if (round % 3 == 0) {
        changed.erase(random.below(changed.size()), 8 * random.below(4));
      }
      LLVMFuzzerTestOneInput(bytes_of(changed).data(), changed.size());
    }
  }
  CHECK(files >= 5);
}
