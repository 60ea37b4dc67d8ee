// A derivation's attributes are refused as its input or read; the JSON that a build is given reads
// and prints as itself. The first byte says whether they are structured.

#include "build/derivation_options.hpp"
#include "build/environment.hpp"
#include "build/steps.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>

using namespace nixbuild;

namespace {

constexpr build::JsonLimits kLimits{.text_bytes = 1 << 16, .values = 2000, .depth = 64};

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

void structure(const std::string& text) {
  const auto json = build::parse_attributes(text, "x.drv", kLimits);
  const model::StoreDir dir;
  sandbox::GuestJob job;
  job.outputs.push_back({"out", "ygnhkm73da8rlsijix5xngqc6jvmxpjk-x"});
  build::add_structured_files(job, dir, text, {}, {});
  require(job.files.size() == 2);
  const auto& printed = job.files[1].contents;
  const auto again = build::parse_attributes(printed, "x.drv");
  require(again.dump() == printed);
  require(again.size() == json.size() + (json.contains("outputs") ? 0U : 1U));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string text(text_of({data + 1, size - 1}));
  model::BasicDerivation derivation;
  derivation.outputs["out"] = {};
  try {
    if (data[0] % 2 == 0) {
      derivation.environment["__json"] = text;
      structure(text);
      require(build::read_options(derivation, "x.drv").structured);
    } else {
      for (const char* name : {"exportReferencesGraph", "allowedReferences", "passAsFile"}) {
        derivation.environment[name] = text;
      }
      const auto options = build::read_options(derivation, "x.drv");
      const auto words = build::words_of(text);
      require(options.rules.at("out").allowed_references == words);
      require(options.references_graphs.size() * 2 <= words.size());
    }
  } catch (const build::BuildFailure& failure) {
    require(failure.status() == model::BuildStatus::InputRejected);
  }
  return 0;
}
