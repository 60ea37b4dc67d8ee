#include "segment/crc32c.hpp"
#include "unit/segment/segment_blobs.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/segment/writer.hpp>

#include <catch2/catch.hpp>

#include <functional>
#include <string>

using namespace nixbuild;
using test::FileTree;

namespace {

void compare(const segment::Tree& tree,
             const test::SegmentBlobs& blobs,
             const segment::Node& node,
             const FileTree& expected) {
  switch (expected.kind) {
  case FileTree::Kind::Regular:
  case FileTree::Kind::Executable: {
    const bool executable = expected.kind == FileTree::Kind::Executable;
    REQUIRE(node.type == (executable ? segment::NodeType::Executable : segment::NodeType::Regular));
    REQUIRE(node.size == expected.bytes.size());
    const auto source = node.inlined ? text_of(blobs.metadata) : std::string_view(blobs.data);
    REQUIRE(source.substr(node.offset, node.size) == expected.bytes);
    CHECK((node.inlined || node.offset % segment::kBlock == 0));
    return;
  }
  case FileTree::Kind::Symlink:
    REQUIRE(node.type == segment::NodeType::Symlink);
    REQUIRE(node.target == expected.bytes);
    return;
  case FileTree::Kind::Directory:
    break;
  }
  REQUIRE(node.type == segment::NodeType::Directory);
  auto next = expected.children.begin();
  tree.children(node, [&](std::string_view name, const segment::Node& child) {
    REQUIRE(next != expected.children.end());
    REQUIRE(name == next->first);
    compare(tree, blobs, child, next->second);
    ++next;
    return true;
  });
  CHECK(next == expected.children.end());
}

void find_all(const segment::Tree& tree, const std::string& path, const FileTree& expected) {
  const auto node = tree.find(path);
  REQUIRE(node);
  CHECK((node->type == segment::NodeType::Directory) ==
        (expected.kind == FileTree::Kind::Directory));
  CHECK_FALSE(tree.find(path + "/"));
  for (const auto& [name, child] : expected.children) {
    const auto inner = path.empty() ? name : path + "/" + name;
    if (!expected.children.contains(name + "\x01")) {
      CHECK_FALSE(tree.find(inner + "\x01"));
    }
    CHECK_FALSE(tree.find((path.empty() ? "" : path + "/") + "\x01\x01" + name));
    find_all(tree, inner, child);
  }
}

void check_segment(const FileTree& tree) {
  const auto blobs = test::segment_of(tree);
  REQUIRE(blobs.data.size() % segment::kBlock == 0);
  REQUIRE(test::nar_of(blobs) == test::nar_of(tree));
  segment::validate(blobs.metadata, blobs.data.size());
  const segment::Tree reader(blobs.metadata, blobs.data.size());
  compare(reader, blobs, reader.root(), tree);
  find_all(reader, "", tree);
}

} // namespace

TEST_CASE("segment: random trees come back bit for bit", "[segment][property]") {
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    check_segment(test::TreeGenerator(seed).tree());
  }
}

TEST_CASE("segment: awkward trees come back bit for bit", "[segment][roundtrip]") {
  for (const auto& [name, tree] : test::awkward_trees()) {
    INFO(name);
    check_segment(tree);
  }
}

TEST_CASE("segment: does not depend on how contents were cut", "[segment][property]") {
  const auto archive = test::nar_of(test::awkward_trees()["10-sizes"]);
  std::string first;
  Bytes first_metadata;
  for (const std::size_t cut : {1U, 100U, 5000U, 1'000'000U}) {
    std::string data;
    StringSink data_sink(data);
    test::MemoryMetadata metadata;
    segment::Writer writer(data_sink, metadata);
    nar::Reader reader(writer);
    for (std::size_t at = 0; at < archive.size(); at += cut) {
      reader.feed(bytes_of(std::string_view(archive).substr(at, cut)));
    }
    writer.finish();
    if (first.empty()) {
      first = data;
      first_metadata = metadata.bytes;
    }
    CHECK(data == first);
    CHECK(metadata.bytes == first_metadata);
  }
}

TEST_CASE("segment: a file of 4 GiB and more has its size", "[segment]") {
  constexpr std::uint64_t kSize = 4 * kGiB + 5;

  struct Counter final : ByteSink {
    void write(ByteView bytes) override { count += bytes.size(); }

    std::uint64_t count = 0;
  };

  Counter data;
  test::MemoryMetadata metadata;
  segment::Writer writer(data, metadata);
  const std::string zeros(1 << 20, '\0');
  writer.directory();
  writer.entry("big");
  writer.regular(false, kSize);
  for (std::uint64_t left = kSize; left > 0;) {
    const auto part = std::min<std::uint64_t>(left, zeros.size());
    writer.contents(bytes_of(zeros).first(static_cast<std::size_t>(part)));
    left -= part;
  }
  writer.regular_end();
  writer.entry("small");
  writer.regular(true, 5000);
  writer.contents(bytes_of(zeros).first(5000));
  writer.regular_end();
  writer.directory_end();
  writer.finish();
  CHECK(data.count == 4 * kGiB + 4096 + 8192);
  segment::validate(metadata.bytes, data.count);
  const segment::Tree tree(metadata.bytes, data.count);
  CHECK(tree.find("big")->size == kSize);
  CHECK(tree.find("small")->offset == 4 * kGiB + 4096);
  segment::NarSource source(metadata.bytes, data.count);
  std::uint64_t total = 0;
  while (const auto piece = source.next()) {
    const auto* range = std::get_if<segment::DataPiece>(&*piece);
    total +=
        range != nullptr ? range->length : std::get<segment::LiteralPiece>(*piece).bytes.size();
  }
  std::string again;
  StringSink sink(again);
  nar::Writer nar(sink);
  nar.directory();
  nar.entry("big");
  nar.regular(false, 0);
  nar.regular_end();
  nar.entry("small");
  nar.regular(true, 0);
  nar.regular_end();
  nar.directory_end();
  nar.finish();
  CHECK(total == again.size() + 4 * kGiB + 8 + 5000);
}

TEST_CASE("segment: 200,000 entries of one directory need little memory", "[segment][slow]") {
  // What the writer holds shows in what it may not hold: contents go on at once.
  struct Peak final : segment::PatchableSink {
    void append(ByteView bytes) override { count += bytes.size(); }

    void patch(std::uint64_t offset, ByteView bytes) override {
      CHECK(offset == 0);
      CHECK(bytes.size() == 32);
      ++patches;
    }

    std::uint64_t count = 0;
    int patches = 0;
  };

  std::string data;
  StringSink data_sink(data);
  Peak metadata;
  segment::Writer writer(data_sink, metadata);
  const std::string contents(500, 'c');
  writer.directory();
  for (int i = 0; i < 200'000; ++i) {
    writer.entry("entry-" + std::to_string(1'000'000 + i));
    writer.regular(false, contents.size());
    writer.contents(bytes_of(contents));
    writer.regular_end();
    REQUIRE(writer.metadata_bytes() - metadata.count <= 64 * kKiB);
  }
  writer.directory_end();
  writer.finish();
  CHECK(metadata.patches == 1);
  CHECK(data.empty());
}

namespace {

std::string code_of(const std::function<void(segment::Writer&)>& calls) {
  std::string data;
  StringSink data_sink(data);
  test::MemoryMetadata metadata;
  segment::Writer writer(data_sink, metadata);
  try {
    calls(writer);
    writer.finish();
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Reject);
    return error.code();
  }
  return "accepted";
}

} // namespace

TEST_CASE("segment writer: refuses calls out of order and bad names", "[segment][reject]") {
  using segment::Writer;
  CHECK(code_of([](Writer&) {}) == "segment.truncated");
  CHECK(code_of([](Writer& w) { w.directory(); }) == "segment.truncated");
  CHECK(code_of([](Writer& w) { w.entry("a"); }) == "segment.syntax");
  CHECK(code_of([](Writer& w) { w.directory_end(); }) == "segment.syntax");
  CHECK(code_of([](Writer& w) { w.contents(bytes_of("a")); }) == "segment.syntax");
  CHECK(code_of([](Writer& w) {
          w.symlink("a");
          w.symlink("a");
        }) == "segment.syntax");
  CHECK(code_of([](Writer& w) {
          w.regular(false, 1);
          w.regular_end();
        }) == "segment.syntax");
  CHECK(code_of([](Writer& w) {
          w.regular(false, 1);
          w.contents(bytes_of("ab"));
        }) == "segment.syntax");
  CHECK(code_of([](Writer& w) { w.symlink(""); }) == "segment.target");
  CHECK(code_of([](Writer& w) { w.symlink(std::string(4096, 'x')); }) == "segment.target");
  CHECK(code_of([](Writer& w) { w.regular(false, std::uint64_t{1} << 45); }) == "segment.limit");
  for (const std::string& name : {std::string(".."), std::string("a/b"), std::string(256, 'x')}) {
    CHECK(code_of([&](Writer& w) {
            w.directory();
            w.entry(name);
          }) == "segment.name");
  }
  CHECK(code_of([](Writer& w) {
          w.directory();
          w.entry("b");
          w.directory();
          w.entry("z");
          w.symlink("x");
          w.directory_end();
          w.entry("a");
        }) == "segment.name");
  CHECK(code_of([](Writer& w) {
          for (int i = 0; i < 1025; ++i) {
            w.directory();
            w.entry("d");
          }
        }) == "segment.limit");
}

TEST_CASE("segment writer: a sink's exception passes", "[segment][fault]") {
  struct Full final : ByteSink {
    void write(ByteView) override { throw Error(Reaction::Busy, "test.full", "full"); }
  };

  Full data;
  test::MemoryMetadata metadata;
  segment::Writer writer(data, metadata);
  const std::string contents(100'000, 'x');
  writer.regular(false, contents.size());
  try {
    writer.contents(bytes_of(contents));
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "test.full");
  }
}

TEST_CASE("segment: the sum is CRC-32C", "[segment][golden]") {
  // The check value of the catalogue of CRCs, without its last inversion.
  CHECK(segment::crc32c(~0U, bytes_of("123456789")) == ~0xe3069283U);
  CHECK(segment::crc32c_by_table(~0U, bytes_of("123456789")) == ~0xe3069283U);
  const auto text = test::TreeGenerator(1).bytes(1001);
  CHECK(segment::crc32c(7, bytes_of(text)) == segment::crc32c_by_table(7, bytes_of(text)));
}
