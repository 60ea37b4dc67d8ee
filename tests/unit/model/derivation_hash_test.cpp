#include "unit/model/error_code.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const StoreDir kDir;

std::string stem(const StorePath& path) {
  return std::string(path.name().substr(0, path.name().size() - 4));
}

/// The derivations of the data folder by path.
std::map<StorePath, Derivation> recorded() {
  std::map<StorePath, Derivation> out;
  for (const auto& file : std::filesystem::directory_iterator(TEST_DATA_DIR "/model/derivations")) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    out.emplace(StorePath::parse(file.path().filename().string()), parse_derivation(kDir, text));
  }
  return out;
}

class Modulo {
public:
  explicit Modulo(const std::map<StorePath, Derivation>& all) : all_(all) {}

  HashModulo operator()(const StorePath& path) const {
    return hash_modulo(kDir, all_.at(path), false, *this);
  }

private:
  const std::map<StorePath, Derivation>& all_;
};

const Derivation& named(const std::map<StorePath, Derivation>& all, std::string_view name) {
  for (const auto& [path, derivation] : all) {
    if (path.name() == std::string(name) + ".drv") {
      return derivation;
    }
  }
  throw std::runtime_error("no derivation " + std::string(name));
}

/// As a build hook sends it: sources and all inputs' outputs, no derivations.
BasicDerivation as_sent(const Derivation& derivation, const StorePaths& inputs) {
  BasicDerivation out = derivation;
  out.input_sources = inputs;
  sort_unique(out.input_sources);
  return out;
}

} // namespace

TEST_CASE("derivation hash: recorded files have the paths that Nix gave them", "[model][golden]") {
  const auto all = recorded();
  REQUIRE(all.size() == 8);
  for (const auto& [path, derivation] : all) {
    CHECK(derivation_path(kDir, stem(path), derivation) == path);
  }
}

TEST_CASE("derivation hash: output paths are those that Nix computed", "[model][golden]") {
  const auto all = recorded();
  const Modulo modulo(all);
  for (const std::string name : {"dep", "top", "multi", "uses", "structured"}) {
    const auto& derivation = named(all, name);
    CHECK(derivation_kind(derivation) == OutputKind::InputAddressed);
    const auto paths = input_addressed_paths(kDir, name, derivation, modulo);
    CHECK(paths.size() == derivation.outputs.size());
    for (const auto& [output, path] : paths) {
      CHECK(derivation.outputs.at(output).path == path);
    }
  }
}

TEST_CASE("derivation hash: vector dep", "[model][golden]") {
  const auto all = recorded();
  const Modulo modulo(all);
  const auto& dep = named(all, "dep");
  CHECK(hash_hex(hash_modulo(kDir, dep, true, modulo).outputs.at("out")) ==
        "197f741cccaf2be6f264a72d3efa67a5464291b5974b67fb76a9854c88aec2c8");
  CHECK(hash_hex(hash_modulo(kDir, dep, false, modulo).outputs.at("out")) ==
        "fa730ad67d9fa52687c7523de4d2554510d8d9d19b0f57f0336173761b58b5ab");
  CHECK(kDir.print(dep.outputs.at("out").path.value()) ==
        "/nix/store/ygnhkm73da8rlsijix5xngqc6jvmxpjk-dep");
  CHECK(derivation_path(kDir, "dep", dep).base_name() ==
        "9f2xy8znfmr9mhs8g7ihximlvi1d1wmh-dep.drv");
  const std::string masked =
      "Derive([(\"out\",\"\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[\"-c\",\"echo dep > "
      "$out\"],[(\"PATH\",\"/bin\"),(\"builder\",\"/bin/sh\"),(\"name\",\"dep\"),(\"out\",\"\"),"
      "(\"system\",\"x86_64-linux\")])";
  CHECK(hash_of(HashAlgorithm::Sha256, bytes_of(masked)) ==
        hash_modulo(kDir, dep, true, modulo).outputs.at("out"));
}

TEST_CASE("derivation hash: vector top", "[model][golden]") {
  const auto all = recorded();
  const Modulo modulo(all);
  const auto& top = named(all, "top");
  CHECK(derivation_path(kDir, "top", top).base_name() ==
        "529gllchd55q2lh86hdyv62awjakgxwc-top.drv");
  CHECK(hash_hex(hash_modulo(kDir, top, true, modulo).outputs.at("out")) ==
        "3fa7af36aa635767f108d013e4a57485ccb4c1e68bff91fac129b8b285c5d44f");
  CHECK(top.outputs.at("out").path->base_name() == "amdzaldprgw1swlsrwhiq9xlxgg94z66-top");
  const auto sent = as_sent(top,
                            {StorePath::parse("7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt"),
                             StorePath::parse("ygnhkm73da8rlsijix5xngqc6jvmxpjk-dep")});
  CHECK(hash_hex(realisation_hashes(kDir, sent).at("out")) ==
        "cb99d690e00a2e3a9504afbd5dfed829586fe0c7f8d468fd5066ad77d620c3af");
}

TEST_CASE("derivation hash: vector fod", "[model][golden]") {
  const auto all = recorded();
  const auto& fod = named(all, "fod");
  const auto& output = fod.outputs.at("out");
  CHECK(output.path->base_name() == "9q0mqp4y1k819ysjzsfjah1ld74x19w2-fod");
  CHECK(print(output.fixed_address()) ==
        "fixed:sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic");
  CHECK(make_content_addressed_path(kDir, "fod", output.fixed_address(), {}, false) == output.path);
  CHECK(hash_hex(realisation_hashes(kDir, fod).at("out")) ==
        "166fad757cb0a925dc6bfa28346dfcd8372c7321def3c0e910f65d367e2d282b");
  CHECK(hash_modulo(kDir, fod, false, Modulo(all)).outputs ==
        hash_modulo(kDir, fod, true, Modulo(all)).outputs);
}

TEST_CASE("derivation hash: floating outputs defer whoever uses them", "[model]") {
  const auto all = recorded();
  const Modulo modulo(all);
  CHECK(hash_modulo(kDir, named(all, "cadrv"), false, modulo).deferred);
  const auto& cadep = named(all, "cadep");
  CHECK(derivation_kind(cadep) == OutputKind::Deferred);
  CHECK(hash_modulo(kDir, cadep, false, modulo).deferred);
  CHECK(error_code_of([&] { return input_addressed_paths(kDir, "cadep", cadep, modulo); }) ==
        "derivation.deferred");
  CHECK(error_code_of([&] {
          return input_addressed_paths(kDir, "cadrv", named(all, "cadrv"), modulo);
        }) == "derivation.outputs");
  CHECK(cadep.arguments.at(1).find(input_placeholder(
            derivation_path(kDir, "cadrv", named(all, "cadrv")), "out")) != std::string::npos);
}

TEST_CASE("derivation hash: an input without the wanted output is refused", "[model][reject]") {
  auto all = recorded();
  auto top = named(all, "top");
  top.input_derivations.begin()->second = {"doc"};
  const Modulo modulo(all);
  CHECK(error_code_of([&] { return hash_modulo(kDir, top, true, modulo); }) ==
        "derivation.outputs");
}

TEST_CASE("derivation: places of outputs whose paths are not known", "[model][golden]") {
  const auto drv = StorePath::parse("4capz5f4hywqvsc5b3snpblc13x2j8ma-cadrv.drv");
  CHECK(scratch_path(kDir, drv, "out").base_name() == "8nanlqrv31nc7d9c5aymsfnhl1wsz045-cadrv");
  CHECK(scratch_path(kDir, drv, "dev").base_name() == "wzxi0p8778ly179b8366mjsskk1x6c3r-cadrv-dev");
  const auto plain = StorePath::parse("4capz5f4hywqvsc5b3snpblc13x2j8ma-cadrv");
  CHECK(error_code_of([&] { return scratch_path(kDir, plain, "out"); }) == "derivation.path");
}

TEST_CASE("derivation: placeholders", "[model][golden]") {
  CHECK(output_placeholder("out") == "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9");
  CHECK(output_placeholder("dev") == "/02qcpld1y6xhs5gz9bchpxaw0xdhmsp5dv88lh25r2ss44kh8dxz");
  CHECK(input_placeholder(StorePath::parse("gj7drqddpdljbs2vl1qxli7vv0dlay6x-cadrv.drv"), "out") ==
        "/14axfdhyqa1kl2wczfkwrvg46yxfjkawp651jl5w3nz5wxhqn5ps");
  CHECK(nix32_encode(hash_of(HashAlgorithm::Sha256, bytes_of("big")).bytes()) ==
        "1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a");
}
