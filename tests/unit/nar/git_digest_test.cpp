#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/git_digest.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <string_view>

using namespace nixbuild;

namespace {

void write_file(nar::EventSink& to, std::string_view contents, bool executable = false) {
  to.regular(executable, contents.size());
  // In two pieces.
  if (contents.size() > 1) {
    to.contents(bytes_of(contents.substr(0, 1)));
    contents.remove_prefix(1);
  }
  if (!contents.empty()) {
    to.contents(bytes_of(contents));
  }
  to.regular_end();
}

std::string hex(const Hash& hash) {
  return hex_encode(hash.bytes());
}

} // namespace

// The names were made by git 2.39: hash-object, write-tree, mktree.

TEST_CASE("git digest: files by themselves", "[nar][golden]") {
  for (const bool executable : {false, true}) {
    nar::GitDigest sha1(HashAlgorithm::Sha1);
    write_file(sha1, "hello", executable);
    CHECK(hex(sha1.finish()) == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
    nar::GitDigest sha256(HashAlgorithm::Sha256);
    write_file(sha256, "hello", executable);
    CHECK(hex(sha256.finish()) ==
          "8aec4e4876f854f688d0ebfc8f37598f38e5fd6903cccc850ca36591175aeb60");
  }
}

TEST_CASE("git digest: trees, in git's own order", "[nar][golden]") {
  nar::GitDigest empty(HashAlgorithm::Sha1);
  empty.directory();
  CHECK_THROWS_AS(empty.finish(), Error);
  empty.directory_end();
  CHECK(hex(empty.finish()) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904");

  nar::GitDigest digest(HashAlgorithm::Sha1);
  digest.directory();
  digest.entry("a");
  digest.directory();
  digest.entry("b");
  digest.directory();
  digest.entry("file");
  write_file(digest, "hello\n");
  digest.directory_end();
  digest.directory_end();
  digest.entry("a-b"); // before a/, which git compares as "a/"
  write_file(digest, "z\n");
  digest.entry("a.b"); // before a/, too
  digest.directory();
  digest.entry("y");
  write_file(digest, "x\n");
  digest.directory_end();
  digest.entry("link");
  digest.symlink("a/b/file");
  digest.entry("run");
  write_file(digest, "#!/bin/sh\n", true);
  digest.directory_end();
  CHECK(hex(digest.finish()) == "8322207540840c88510d213f9fc5d3c7a759edb5");
}
