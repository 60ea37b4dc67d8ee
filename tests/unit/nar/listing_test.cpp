#include "unit/nar/random_tree.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/listing.hpp>

#include <catch2/catch.hpp>

#include <string>

using namespace nixbuild;
using test::FileTree;

namespace {

std::string json_of(const FileTree& tree) {
  nar::Listing listing;
  emit(tree, listing);
  std::string out;
  StringSink sink(out);
  listing.write_json(sink);
  return out;
}

std::string text_listing(const FileTree& tree) {
  nar::Listing listing;
  emit(tree, listing);
  std::string out;
  StringSink sink(out);
  listing.write_text(sink);
  return out;
}

} // namespace

TEST_CASE("nar listing: writes the JSON and the text that Nix writes", "[nar][golden]") {
  // Both texts were printed by Nix 2.8 for this tree.
  const auto tree =
      FileTree::directory({{"a", FileTree::directory({{"x", FileTree::file("hi\n", true)}})},
                           {"b", FileTree::directory({{"l\"k", FileTree::link("../a")}})},
                           {"empty", FileTree::directory()},
                           {"z", FileTree::file("")}});
  CHECK(
      json_of(tree) ==
      R"({"type":"directory","entries":{"a":{"type":"directory","entries":{"x":{"type":"regular",)"
      R"("size":3,"executable":true,"narOffset":400}}},"b":{"type":"directory","entries":{"l\"k":)"
      R"({"type":"symlink","target":"../a"}}},"empty":{"type":"directory","entries":{}},)"
      R"("z":{"type":"regular","size":0,"narOffset":1152}}})");
  CHECK(text_listing(tree) == "dr-xr-xr-x                    0 ./a\n"
                              "-r-xr-xr-x                    3 ./a/x\n"
                              "dr-xr-xr-x                    0 ./b\n"
                              "lrwxrwxrwx                    0 ./b/l\"k -> ../a\n"
                              "dr-xr-xr-x                    0 ./empty\n"
                              "-r--r--r--                    0 ./z\n");
  CHECK(json_of(FileTree::file("hi\n", true)) ==
        R"({"type":"regular","size":3,"executable":true,"narOffset":128})");
  CHECK(text_listing(FileTree::file("hi\n", true)) == "-r-xr-xr-x                    3 \n");
}

TEST_CASE("nar listing: knows where in the archive contents lie", "[nar][property]") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const auto tree = test::TreeGenerator(seed).tree();
    const auto archive = test::nar_of(tree);
    nar::Listing listing;
    emit(tree, listing);
    std::size_t nodes = 0;
    listing.for_each([&](std::string_view path, const nar::ListedEntry& entry) {
      ++nodes;
      const FileTree* node = &tree;
      for (std::size_t at = 0; at < path.size();) {
        const auto next = std::min(path.find('/', at + 1), path.size());
        node = &node->children.at(std::string(path.substr(at + 1, next - at - 1)));
        at = next;
      }
      if (entry.type == nar::EntryType::Regular) {
        REQUIRE(archive.substr(entry.nar_offset, entry.size) == node->bytes);
      }
    });
    CHECK(nodes == listing.entries().size());
  }
}

TEST_CASE("nar listing: writes valid JSON for names that are not UTF-8", "[nar]") {
  CHECK(json_of(FileTree::link("\xff\xc3\xa9\xed\xa0\x80\x01")) ==
        "{\"type\":\"symlink\",\"target\":\"\xef\xbf\xbd\xc3\xa9"
        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\\u0001\"}");
}

TEST_CASE("nar listing: keeps to its limit", "[nar][reject]") {
  nar::Listing listing(2);
  listing.directory();
  listing.entry("a");
  listing.symlink("x");
  listing.entry("b");
  try {
    listing.symlink("y");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "nar.limit");
  }
}
