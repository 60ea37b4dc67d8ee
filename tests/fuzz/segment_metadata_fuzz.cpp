// Whatever is in a metadata blob: no reader may leave the blobs or go on for ever, and a blob that
// validates must compose and give an archive that our own NAR reader accepts. The input is the blob
// behind its header; the header is made to fit, so that the checks behind the sum are reached.

#include "segment/crc32c.hpp"
#include "segment/erofs_format.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/segment/compose.hpp>
#include <nixbuild/segment/reader.hpp>
#include <nixbuild/segment/writer.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

using namespace nixbuild;

namespace {

constexpr std::uint64_t kDataBytes = 16 * segment::kBlock;

/// Runs and tells whether it ended well; any other error than corruption is a find.
template <class Run>
bool passes(Run&& run) {
  try {
    run();
    return true;
  } catch (const Error& error) {
    if (error.code() != "segment.corrupt") {
      std::abort();
    }
    return false;
  }
}

Bytes blob_of(const std::uint8_t* data, std::size_t size) {
  Bytes blob(32 + size - 2);
  std::copy(segment::BlobHeader::kMagic.begin(), segment::BlobHeader::kMagic.end(), blob.begin());
  std::copy(data + 2, data + size, blob.begin() + 32);
  segment::store(blob.data() + 8, std::uint64_t{data[0]} * segment::kSlot);
  segment::store(blob.data() + 16, std::uint64_t{blob.size()});
  segment::store(blob.data() + 24, std::uint32_t{data[1]});
  const auto body = segment::crc32c(~0U, ByteView(blob).subspan(32));
  segment::store(blob.data() + 28, segment::crc32c(body, ByteView(blob).first(28)));
  return blob;
}

/// The archive, or as much of it as a long but not endless one has in some pieces.
void regenerate(const Bytes& blob, nar::Reader* reader) {
  const Bytes zeros(kDataBytes);
  segment::NarSource source(blob, kDataBytes);
  for (int pieces = 0; reader != nullptr || pieces < 200; ++pieces) {
    const auto piece = source.next();
    if (!piece) {
      return;
    }
    ByteView bytes;
    if (const auto* range = std::get_if<segment::DataPiece>(&*piece)) {
      if (range->length > kDataBytes || range->offset > kDataBytes - range->length) {
        std::abort();
      }
      bytes = ByteView(zeros).first(static_cast<std::size_t>(range->length));
    } else {
      bytes = std::get<segment::LiteralPiece>(*piece).bytes;
    }
    if (reader != nullptr && reader->feed(bytes) != bytes.size()) {
      std::abort();
    }
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) {
    return 0;
  }
  const Bytes blob = blob_of(data, size);
  const bool valid = passes([&] { segment::validate(blob, kDataBytes); });
  std::string head;
  StringSink head_sink(head);
  const std::vector<segment::Part> parts{{"part", blob, kDataBytes}};
  if (passes([&] { (void)segment::compose("/nix/store", parts, head_sink); }) != valid) {
    std::abort();
  }
  passes([&] {
    const segment::Tree tree(blob, kDataBytes);
    (void)tree.find("a/b/c");
    tree.children(tree.root(), [](std::string_view, const segment::Node&) { return true; });
  });
  const bool readable = passes([&] { regenerate(blob, nullptr); });
  if (valid) {
    std::string archive;
    StringSink sink(archive);
    nar::Limits deep;
    deep.depth = 2000;
    nar::Writer writer(sink, deep);
    nar::Reader reader(writer, deep);
    if (!readable || !passes([&] { regenerate(blob, &reader); }) || !reader.finished()) {
      std::abort();
    }
  }
  return 0;
}
