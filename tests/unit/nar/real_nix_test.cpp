// Compares with the real thing where Nix is installed.

#include "unit/nar/random_tree.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/reader.hpp>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

using namespace nixbuild;
using test::FileTree;
namespace fs = std::filesystem;

namespace {

std::string output_of(const std::string& command) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "re"), pclose);
  REQUIRE(pipe != nullptr);
  std::string out;
  std::string part(65536, '\0');
  while (const auto size = std::fread(part.data(), 1, part.size(), pipe.get())) {
    out.append(part, 0, size);
  }
  return out;
}

void unpack(const FileTree& tree, const fs::path& path) {
  switch (tree.kind) {
  case FileTree::Kind::Directory:
    fs::create_directory(path);
    for (const auto& [name, child] : tree.children) {
      unpack(child, path / name);
    }
    return;
  case FileTree::Kind::Symlink:
    fs::create_symlink(tree.bytes, path);
    return;
  case FileTree::Kind::Regular:
  case FileTree::Kind::Executable:
    break;
  }
  std::ofstream(path, std::ios::binary) << tree.bytes;
  const bool executable = tree.kind == FileTree::Kind::Executable;
  fs::permissions(path, fs::perms(executable ? 0755 : 0644));
}

struct Folder {
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "nar-test-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }

  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }

  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path path;
};

bool nix_is_here() {
  if (std::system("command -v nix-store >/dev/null && command -v nix >/dev/null") == 0) {
    return true;
  }
  const char* required = std::getenv("NIXBUILD_TEST_REQUIRE");
  if (required != nullptr && std::string_view(required).find("nix") != std::string_view::npos) {
    FAIL("Nix is required and not installed");
  }
  WARN("skipped: Nix is not installed");
  return false;
}

/// What a shell and a line-based listing can carry.
FileTree tame(FileTree tree) {
  for (auto it = tree.children.begin(); it != tree.children.end();) {
    const bool plain = std::all_of(
        it->first.begin(), it->first.end(), [](char c) { return c >= ' ' && c <= '~'; });
    if (!plain) {
      it = tree.children.erase(it);
    } else {
      it->second = tame(std::move(it->second));
      ++it;
    }
  }
  if (tree.kind == FileTree::Kind::Symlink) {
    for (auto& c : tree.bytes) {
      c = static_cast<char>('a' + static_cast<unsigned char>(c) % 26);
    }
  }
  return tree;
}

} // namespace

TEST_CASE("nar writer: writes what nix-store --dump writes", "[nar][differential]") {
  if (!nix_is_here()) {
    return;
  }
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const Folder folder;
    const auto tree = test::TreeGenerator(seed * 77, 5000).tree();
    unpack(tree, folder.path / "t");
    const auto dumped = output_of("nix-store --dump '" + (folder.path / "t").string() + "'");
    REQUIRE(dumped == test::nar_of(tree));
  }
}

TEST_CASE("nar listing: lists what nix nar ls lists", "[nar][differential]") {
  if (!nix_is_here()) {
    return;
  }
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const Folder folder;
    auto tree = tame(test::TreeGenerator(seed * 31, 5000).tree());
    if (tree.kind != FileTree::Kind::Directory) {
      tree = FileTree::directory({{"only", tree}});
    }
    const auto archive = test::nar_of(tree);
    std::ofstream(folder.path / "t.nar", std::ios::binary) << archive;

    nar::Listing listing;
    nar::Reader reader(listing);
    reader.feed(bytes_of(archive));
    reader.expect_finished();
    std::string text;
    StringSink text_sink(text);
    listing.write_text(text_sink);
    std::string json;
    StringSink json_sink(json);
    listing.write_json(json_sink);

    const std::string ls =
        "HOME='" + folder.path.string() + "' nix --extra-experimental-features nix-command nar ls ";
    const std::string of = " '" + (folder.path / "t.nar").string() + "' /";
    CHECK(output_of(ls + "-lR" + of) == text);
    // Newer ones sort the names of members; what is listed in which order is in the text above.
    CHECK(nlohmann::json::parse(output_of(ls + "--json -R" + of)) == nlohmann::json::parse(json));
  }
}
