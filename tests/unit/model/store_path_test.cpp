#include "unit/model/error_code.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/store_path.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const std::string kHash = "7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4";

std::string parse_code(const std::string& base_name) {
  return error_code_of([&] { return StorePath::parse(base_name); });
}

std::string dir_code(const std::string& dir) {
  return error_code_of([&] { return StoreDir(dir); });
}

} // namespace

TEST_CASE("store path: parts of a base name", "[model]") {
  const auto path = StorePath::parse(kHash + "-src.txt");
  CHECK(path.hash_part() == kHash);
  CHECK(path.name() == "src.txt");
  CHECK_FALSE(path.is_derivation());
  CHECK(StorePath::parse(kHash + "-x.drv").is_derivation());
  CHECK(StorePath::parse(kHash + "-a") < StorePath::parse(kHash + "-b"));
}

TEST_CASE("store path: names at the limits are accepted", "[model]") {
  CHECK(parse_code(kHash + "-" + std::string(211, 'a')).empty());
  CHECK(parse_code(kHash + "-.a").empty());
  CHECK(parse_code(kHash + "-...").empty());
  CHECK(parse_code(kHash + "-+-._?=0aZ").empty());
}

TEST_CASE("store path: rejects bad hash parts and names", "[model][reject]") {
  CHECK(parse_code("") == "store-path.hash");
  CHECK(parse_code(kHash) == "store-path.hash");
  CHECK(parse_code(kHash + "_a") == "store-path.hash");
  CHECK(parse_code("e" + kHash.substr(1) + "-a") == "store-path.hash");
  CHECK(parse_code(kHash + "-") == "store-path.name");
  CHECK(parse_code(kHash + "-.") == "store-path.name");
  CHECK(parse_code(kHash + "-..") == "store-path.name");
  CHECK(parse_code(kHash + "-.-a") == "store-path.name");
  CHECK(parse_code(kHash + "-..-a") == "store-path.name");
  CHECK(parse_code(kHash + "-a/b") == "store-path.name");
  CHECK(parse_code(kHash + "-a b") == "store-path.name");
  CHECK(parse_code(kHash + "-\xc3\xa9") == "store-path.name");
  CHECK(parse_code(kHash + std::string("-a\0b", 4)) == "store-path.name");
  CHECK(parse_code(kHash + "-" + std::string(212, 'a')) == "store-path.name");
  CHECK(error_code_of([] { return StorePath(Bytes(19), "a"); }) == "store-path.hash");
  CHECK(error_code_of([] { return StorePath(Bytes(20), "a/b"); }) == "store-path.name");
}

TEST_CASE("store directory: prints and parses full paths", "[model][roundtrip]") {
  const StoreDir dir;
  const std::string text = "/nix/store/" + kHash + "-src.txt";
  CHECK(dir.print(dir.parse(text)) == text);
  for (const auto& bad : {"/nix/stor/" + kHash + "-a",
                          "/nix/store" + kHash + "-a",
                          "/nix/store/sub/" + kHash + "-a",
                          "/nix/store/" + kHash + "-a/bin",
                          kHash + "-a",
                          std::string("/nix/store"),
                          std::string()}) {
    CHECK(error_code_of([&] { return dir.parse(bad); }) == "store-path.outside");
  }
}

TEST_CASE("store directory: rejects what is no plain absolute directory", "[model][reject]") {
  for (const auto& bad :
       {"", "/", "nix/store", "/nix/store/", "/nix//store", "/nix/../store", "/./a"}) {
    CHECK(dir_code(bad) == "store-dir.invalid");
  }
  CHECK(dir_code("/" + std::string(4000, 'a')) == "store-dir.invalid");
  CHECK(dir_code("/" + std::string(3999, 'a')).empty());
}

TEST_CASE("store path: a text object's path, with and without references", "[model][golden]") {
  const StoreDir dir;
  const auto source =
      make_text_path(dir, "src.txt", hash_of(HashAlgorithm::Sha256, bytes_of("hello")), {});
  CHECK(dir.print(source) == "/nix/store/7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt");
  const auto contents = "hi " + dir.print(source);
  const auto other =
      make_text_path(dir, "b.txt", hash_of(HashAlgorithm::Sha256, bytes_of(contents)), {source});
  CHECK(dir.print(other) == "/nix/store/gmlc2nksq9083v3mv44znxivllyah303-b.txt");
}

TEST_CASE("store path: the fingerprint's hash and its folding", "[model][golden]") {
  const auto hash = hex_decode("e6d97c87efd6abd9aa3c2e40713969ac11eaa73b022b3a1f9551360637fb68ad");
  CHECK(hex_encode(compress_hash(hash)) == "e4f246987a879ddf9dc746ed713969ac11eaa73b");
  CHECK(nix32_encode(compress_hash(hash)) == kHash);
}

TEST_CASE("store path: sorting drops duplicates and keeps sorted lists", "[model]") {
  const auto a = StorePath::parse(kHash + "-a");
  const auto b = StorePath::parse(kHash + "-b");
  StorePaths paths{b, a, b, a};
  sort_unique(paths);
  CHECK(paths == StorePaths{a, b});
  sort_unique(paths);
  CHECK(paths == StorePaths{a, b});
  StorePaths twice{a, a};
  sort_unique(twice);
  CHECK(twice == StorePaths{a});
}
