#pragma once

#include "unit/nar/random_tree.hpp"

#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/segment/writer.hpp>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <variant>

namespace nixbuild::test {

/// A metadata blob in memory.
class MemoryMetadata final : public segment::PatchableSink {
public:
  void append(ByteView more) override { bytes.insert(bytes.end(), more.begin(), more.end()); }

  void patch(std::uint64_t offset, ByteView patch) override {
    if (offset + patch.size() > bytes.size()) {
      throw std::logic_error("patch beyond the end");
    }
    std::copy(patch.begin(), patch.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  Bytes bytes;
};

struct SegmentBlobs {
  std::string data;
  Bytes metadata;

  [[nodiscard]] segment::Part part(std::string name) const {
    return {std::move(name), metadata, data.size()};
  }
};

inline SegmentBlobs segment_of(const FileTree& tree) {
  SegmentBlobs blobs;
  StringSink data(blobs.data);
  MemoryMetadata metadata;
  segment::Writer writer(data, metadata);
  emit(tree, writer);
  writer.finish();
  blobs.metadata = std::move(metadata.bytes);
  if (writer.data_bytes() != blobs.data.size() ||
      writer.metadata_bytes() != blobs.metadata.size()) {
    throw std::logic_error("writer miscounts");
  }
  return blobs;
}

inline std::string nar_of(const SegmentBlobs& blobs) {
  std::string out;
  segment::NarSource source(blobs.metadata, blobs.data.size());
  while (const auto piece = source.next()) {
    if (const auto* literal = std::get_if<segment::LiteralPiece>(&*piece)) {
      out += text_of(literal->bytes);
    } else {
      const auto& data = std::get<segment::DataPiece>(*piece);
      out += blobs.data.substr(data.offset, data.length);
    }
  }
  return out;
}

/// The whole composed disk.
inline std::string disk_of(std::string_view store_dir,
                           const std::vector<std::pair<std::string, const SegmentBlobs*>>& parts) {
  std::vector<segment::Part> given;
  for (const auto& [name, blobs] : parts) {
    given.push_back(blobs->part(name));
  }
  std::string disk;
  StringSink head(disk);
  const auto composed = segment::compose(store_dir, given, head);
  if (disk.size() != composed.head_bytes) {
    throw std::logic_error("head is not as long as announced");
  }
  for (const auto& placed : composed.data) {
    if (placed.disk_offset != disk.size()) {
      throw std::logic_error("gap between data blobs");
    }
    disk += parts[placed.part].second->data;
  }
  if (disk.size() != composed.disk_bytes) {
    throw std::logic_error("disk is not as long as announced");
  }
  return disk;
}

/// Trees that formats stumble over.
inline std::map<std::string, FileTree> awkward_trees() {
  TreeGenerator random(4711);
  std::map<std::string, FileTree> trees;
  trees["00-file"] = FileTree::file("just a file\n", true);
  trees["01-large-file"] = FileTree::file(random.bytes(100'001));
  trees["02-link"] = FileTree::link("../somewhere");
  trees["03-long-link"] = FileTree::link(std::string(4095, 't'));
  trees["04-empty-directory"] = FileTree::directory();
  trees["05-empty-file"] = FileTree::file("");

  auto many = FileTree::directory();
  for (int i = 0; i < 20'000; ++i) {
    many.children["entry-number-" + std::to_string(i * 7919 % 20'000)] =
        i % 3 == 0   ? FileTree::file(std::to_string(i))
        : i % 3 == 1 ? FileTree::link(std::to_string(i))
                     : FileTree::directory();
  }
  trees["06-many-entries"] = std::move(many);

  auto names = FileTree::directory();
  for (int i = 0; i < 64; ++i) {
    names
        .children[std::string(static_cast<std::size_t>(255 - i), static_cast<char>('a' + i % 26))] =
        FileTree::file("long name");
    names.children[std::string(254, 'n') + static_cast<char>('0' + i)] = FileTree::directory();
  }
  trees["07-long-names"] = std::move(names);

  auto dots = FileTree::directory();
  for (const auto* name : {"+x",
                           "-x",
                           "#x",
                           "!",
                           " ",
                           "...",
                           ".a",
                           "..a",
                           ".-",
                           "..-",
                           ".hidden",
                           "~",
                           "\x01",
                           "\xff\xfe",
                           "A",
                           "a",
                           "aa",
                           "\xc3\xa4"}) {
    dots.children[name] = FileTree::file(name);
  }
  trees["08-around-dots"] = std::move(dots);

  auto deep = FileTree::file("the bottom");
  for (int i = 0; i < 60; ++i) {
    deep = FileTree::directory({{"d", deep}, {"z", FileTree::file(std::to_string(i))}});
  }
  trees["09-deep"] = std::move(deep);

  auto sizes = FileTree::directory();
  for (const std::size_t size : {1U,
                                 1023U,
                                 1024U,
                                 1025U,
                                 2046U,
                                 2047U,
                                 2048U,
                                 2049U,
                                 4031U,
                                 4063U,
                                 4064U,
                                 4065U,
                                 4095U,
                                 4096U,
                                 4097U,
                                 8191U,
                                 8192U,
                                 8193U,
                                 65'536U}) {
    sizes.children["file" + std::to_string(size)] = FileTree::file(random.bytes(size));
    sizes.children["link" + std::to_string(size)] =
        FileTree::link(std::string(std::min<std::size_t>(size, 4095), 'l'));
  }
  trees["10-sizes"] = std::move(sizes);

  // Directories of every size around one block and around two.
  auto borders = FileTree::directory();
  for (std::size_t extra = 0; extra < 120; ++extra) {
    for (const std::size_t entries : {39U, 40U, 80U}) {
      auto directory = FileTree::directory();
      for (std::size_t i = 0; i < entries; ++i) {
        const std::size_t length = 88 + (i < extra ? 1U : 0U);
        auto name = std::to_string(1000 + i);
        name.resize(length, 'x');
        directory.children[name] = FileTree::link("x");
      }
      borders.children[std::to_string(entries) + "+" + std::to_string(extra)] = directory;
    }
  }
  trees["11-borders"] = std::move(borders);

  trees["12-twin"] = trees["10-sizes"];
  trees["13-twin"] = trees["10-sizes"];
  return trees;
}

} // namespace nixbuild::test
