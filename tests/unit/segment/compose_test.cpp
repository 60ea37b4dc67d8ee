#include "segment/crc32c.hpp"
#include "segment/erofs_format.hpp"
#include "unit/segment/segment_blobs.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/compose.hpp>

#include <catch2/catch.hpp>

#include <string>

using namespace nixbuild;
using test::FileTree;

namespace {

std::string code_of(std::string_view store_dir, std::vector<segment::Part> parts) {
  std::string head;
  StringSink sink(head);
  try {
    (void)segment::compose(store_dir, parts, sink);
  } catch (const Error& error) {
    return error.code();
  }
  return "accepted";
}

} // namespace

TEST_CASE("compose: the superblock says what it must", "[segment][golden]") {
  const auto blobs = test::segment_of(FileTree::file(std::string(5000, 'x')));
  const auto disk = test::disk_of("/nix/store", {{"a", &blobs}, {"b", &blobs}});
  const auto* super = bytes_of(disk).data() + 1024;
  CHECK(segment::load<std::uint32_t>(super) == 0xe0f5e1e2);
  CHECK(segment::load<std::uint32_t>(super + 8) == 1);
  CHECK(super[12] == 12);
  CHECK(segment::load<std::uint16_t>(super + 14) == 36);
  CHECK(segment::load<std::uint64_t>(super + 16) == 5);
  CHECK(segment::load<std::uint64_t>(super + 24) == 1);
  CHECK(segment::load<std::uint32_t>(super + 36) == 5);
  CHECK(segment::load<std::uint32_t>(super + 80) == 0); // no feature a kernel could lack
  auto block = disk.substr(1024, 3072);
  block.replace(4, 4, 4, '\0');
  CHECK(segment::load<std::uint32_t>(super + 4) == segment::crc32c(~0U, bytes_of(block)));
}

TEST_CASE("compose: data lies behind the head, largest first", "[segment]") {
  const auto small = test::segment_of(FileTree::file(std::string(5000, 's')));
  const auto large = test::segment_of(FileTree::file(std::string(50'000, 'l')));
  const auto none = test::segment_of(FileTree::file("n"));
  std::string head;
  StringSink sink(head);
  const std::vector<segment::Part> parts{small.part("s"), none.part("n"), large.part("l")};
  const auto disk = segment::compose("/nix/store", parts, sink);
  CHECK(disk.head_bytes == head.size());
  REQUIRE(disk.data.size() == 2);
  CHECK(disk.data[0].part == 2);
  CHECK(disk.data[0].disk_offset == disk.head_bytes);
  CHECK(disk.data[0].length == 53'248);
  CHECK(disk.data[1].part == 0);
  CHECK(disk.data[1].disk_offset == disk.head_bytes + 53'248);
  CHECK(disk.disk_bytes == disk.head_bytes + 53'248 + 8192);
}

TEST_CASE("compose: small parts share blocks", "[segment]") {
  const auto blobs = test::segment_of(FileTree::directory({{"a", FileTree::link("b")}}));
  std::vector<segment::Part> parts;
  for (int i = 0; i < 200; ++i) {
    parts.push_back(blobs.part("part-" + std::to_string(i)));
  }
  std::string head;
  StringSink sink(head);
  const auto head_bytes = segment::compose("/nix/store", parts, sink).head_bytes;
  CHECK(head_bytes < 3 * segment::kBlock + 200 * (blobs.metadata.size() + 64));
}

TEST_CASE("compose: refuses names and store directories that are none", "[segment][reject]") {
  const auto blobs = test::segment_of(FileTree::file("x"));
  CHECK(code_of("/nix/store", {}) == "accepted");
  CHECK(code_of("/", {blobs.part("a")}) == "accepted");
  CHECK(code_of("/nix/store", {blobs.part("a"), blobs.part("b"), blobs.part("a")}) ==
        "segment.name");
  for (const std::string& name : {std::string(),
                                  std::string("."),
                                  std::string("a/b"),
                                  std::string("a\0b", 3),
                                  std::string(256, 'x')}) {
    CHECK(code_of("/nix/store", {blobs.part(name)}) == "segment.name");
  }
  for (const auto* store_dir : {"", "nix/store", "/nix//store", "/nix/../store"}) {
    CHECK(code_of(store_dir, {blobs.part("a")}) == "segment.name");
  }
}

TEST_CASE("compose: refuses a disk beyond 2^32 blocks", "[segment][reject]") {
  const auto blobs = test::segment_of(FileTree::file("x"));
  auto huge = blobs.part("a");
  huge.data_bytes = std::uint64_t{1} << 43;
  auto other = huge;
  other.name = "b";
  CHECK(code_of("/nix/store", {huge}) == "accepted");
  CHECK(code_of("/nix/store", {huge, other}) == "segment.limit");
  huge.data_bytes = ~std::uint64_t{0} - 4095;
  CHECK(code_of("/nix/store", {huge}) == "segment.limit");
  CHECK(code_of("/nix/store", {huge, other}) == "segment.limit");
}

TEST_CASE("compose: says which part is corrupt", "[segment][reject]") {
  const auto good = test::segment_of(FileTree::file("x"));
  auto bad = good;
  bad.metadata.back() ^= 1;
  std::string head;
  StringSink sink(head);
  const std::vector<segment::Part> parts{good.part("good"), bad.part("bad")};
  try {
    (void)segment::compose("/nix/store", parts, sink);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "segment.corrupt");
    CHECK(std::string(error.what()).find("bad: ") == 0);
  }
}
