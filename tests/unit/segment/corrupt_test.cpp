#include "segment/crc32c.hpp"
#include "segment/erofs_format.hpp"
#include "unit/segment/segment_blobs.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/reader.hpp>

#include <catch2/catch.hpp>

#include <functional>
#include <string>

using namespace nixbuild;
using test::FileTree;

namespace {

/// Runs and tells whether it ended well; anything but `segment.corrupt` fails the test.
bool passes(const std::function<void()>& run) {
  try {
    run();
    return true;
  } catch (const Error& error) {
    REQUIRE(error.code() == "segment.corrupt");
    REQUIRE(error.reaction() == Reaction::Corrupt);
    return false;
  }
}

void walk(const segment::Tree& tree, const segment::Node& node, std::size_t& budget) {
  if (node.type != segment::NodeType::Directory) {
    return;
  }
  tree.children(node, [&](std::string_view name, const segment::Node& child) {
    CHECK(name.size() <= 255);
    if (budget == 0) {
      return false;
    }
    --budget;
    walk(tree, child, budget);
    return true;
  });
}

/// Everything a reader can do to a blob, whatever is in it. Returns whether it validates.
bool exercise(const Bytes& metadata, std::uint64_t data_bytes) {
  passes([&] {
    segment::NarSource source(metadata, data_bytes);
    std::uint64_t total = 0;
    std::string head;
    // Entries that lead to one inode again and again may make the archive long, not endless.
    for (int pieces = 0; pieces < 2000; ++pieces) {
      const auto piece = source.next();
      if (!piece) {
        break;
      }
      if (const auto* range = std::get_if<segment::DataPiece>(&*piece)) {
        REQUIRE(range->offset <= data_bytes);
        REQUIRE(range->length <= data_bytes - range->offset);
      } else {
        for (const auto byte : std::get<segment::LiteralPiece>(*piece).bytes) {
          total += byte;
        }
      }
    }
    CHECK(total > 0);
  });
  passes([&] {
    const segment::Tree tree(metadata, data_bytes);
    std::size_t budget = 5000;
    walk(tree, tree.root(), budget);
    (void)tree.find("a/b");
    (void)tree.find("entry");
  });
  const bool valid = passes([&] { segment::validate(metadata, data_bytes); });
  std::string head;
  StringSink sink(head);
  const std::vector<segment::Part> parts{{"part", metadata, data_bytes}};
  const bool composed = passes([&] { (void)segment::compose("/nix/store", parts, sink); });
  REQUIRE(composed == valid);
  return valid;
}

void seal(Bytes& metadata) {
  const ByteView view(metadata);
  const auto body = segment::crc32c(~0U, view.subspan(32));
  segment::store(metadata.data() + 28, segment::crc32c(body, view.first(28)));
}

FileTree sample() {
  auto tree = FileTree::directory(
      {{"a", FileTree::directory({{"b", FileTree::file("inline")}, {"c", FileTree::link("b")}})},
       {"entry", FileTree::file(std::string(5000, 'x'), true)},
       {"empty", FileTree::file("")},
       {"long", FileTree::link(std::string(4095, 'l'))},
       {"+", FileTree::directory()}});
  auto& wide = tree.children["wide"] = FileTree::directory();
  for (int i = 0; i < 150; ++i) {
    wide.children[std::string(40, 'w') + std::to_string(i)] = FileTree::link("x");
  }
  return tree;
}

} // namespace

TEST_CASE("segment: every changed bit is noticed by the sum", "[segment][reject]") {
  const auto blobs = test::segment_of(sample());
  REQUIRE(exercise(blobs.metadata, blobs.data.size()));
  for (std::size_t at = 0; at < blobs.metadata.size(); at += at < 1024 ? 1 : 61) {
    auto broken = blobs.metadata;
    broken[at] ^= static_cast<std::uint8_t>(1U << (at % 8));
    CHECK_FALSE(passes([&] { segment::validate(broken, blobs.data.size()); }));
  }
}

TEST_CASE("segment: bits changed under a right sum are an error or harmless",
          "[segment][property]") {
  const auto blobs = test::segment_of(sample());
  test::TreeGenerator random(99);
  std::size_t refused = 0;
  for (int round = 0; round < 6000; ++round) {
    auto broken = blobs.metadata;
    for (auto flips = 1 + random.below(3); flips > 0; --flips) {
      // Mostly where the structure is, not in names and targets.
      const auto at = 8 + random.below(round % 2 == 0 ? 1500U : broken.size() - 8);
      broken[at] ^= static_cast<std::uint8_t>(1U << random.below(8));
    }
    seal(broken);
    refused += exercise(broken, blobs.data.size()) ? 0U : 1U;
  }
  CHECK(refused > 1000);
}

TEST_CASE("segment: truncated blobs are refused", "[segment][reject]") {
  const auto blobs = test::segment_of(sample());
  for (std::size_t size = 0; size < blobs.metadata.size(); size += size < 200 ? 1 : 97) {
    auto cut = blobs.metadata;
    cut.resize(size);
    CHECK_FALSE(exercise(cut, blobs.data.size()));
    if (size >= 32) {
      segment::store(cut.data() + 16, std::uint64_t{size});
      seal(cut);
      CHECK_FALSE(exercise(cut, blobs.data.size()));
    }
  }
  CHECK_FALSE(exercise(blobs.metadata, 0));
  CHECK_FALSE(exercise(blobs.metadata, blobs.data.size() - 4096));
  CHECK_FALSE(exercise(blobs.metadata, blobs.data.size() + 1));
  CHECK_FALSE(exercise(Bytes(32), 0));
  CHECK_FALSE(exercise(Bytes(64), 0));
}

TEST_CASE("segment: a blob whose writer never finished is refused", "[segment][fault]") {
  std::string data;
  StringSink data_sink(data);
  test::MemoryMetadata metadata;
  {
    segment::Writer writer(data_sink, metadata);
    writer.directory();
    for (int i = 0; i < 5000; ++i) {
      writer.entry(std::to_string(100'000 + i));
      writer.symlink("target");
    }
    writer.directory_end();
  }
  REQUIRE(metadata.bytes.size() > 100'000);
  CHECK_FALSE(exercise(metadata.bytes, data.size()));
}

TEST_CASE("segment: random bytes are refused", "[segment][property]") {
  test::TreeGenerator random(7);
  for (int round = 0; round < 2000; ++round) {
    const auto text = random.bytes(32 + random.below(400));
    Bytes bytes(text.begin(), text.end());
    std::copy(
        segment::BlobHeader::kMagic.begin(), segment::BlobHeader::kMagic.end(), bytes.begin());
    segment::store(bytes.data() + 8, std::uint64_t{32 * random.below(8)});
    segment::store(bytes.data() + 16, std::uint64_t{bytes.size()});
    seal(bytes);
    CHECK_FALSE(exercise(bytes, 4096));
  }
}
