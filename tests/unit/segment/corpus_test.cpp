// Replays the fuzzing corpus, and inputs that are a few changes away from it.

#include "unit/nar/random_tree.hpp"

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

using namespace nixbuild;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("segment fuzzing: the corpus and its neighbours keep the invariants", "[segment][fuzz]") {
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(TEST_DATA_DIR "/segment/corpus")) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::string input{std::istreambuf_iterator<char>(in), {}};
    ++files;
    LLVMFuzzerTestOneInput(bytes_of(input).data(), input.size());
    test::TreeGenerator random(files);
    for (int round = 0; round < 500 && !input.empty(); ++round) {
      auto changed = input;
      for (auto flips = 1 + random.below(2); flips > 0; --flips) {
        changed[random.below(std::min<std::size_t>(changed.size(), 600))] ^=
            static_cast<char>(1U << random.below(8));
      }
      LLVMFuzzerTestOneInput(bytes_of(changed).data(), changed.size());
    }
  }
  CHECK(files >= 5);
}
