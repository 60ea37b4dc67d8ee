#include "unit/protocol/conversation.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/protocol/export_stream.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace export_stream_test {

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

const model::StoreDir kDir;

struct Exported {
  std::string nar;
  ExportTrailer trailer;

  bool operator==(const Exported&) const = default;
};

struct Stream {
  std::vector<Exported> paths;
  bool ended = false;
  std::string rest; ///< bytes after the end

  bool operator==(const Stream&) const = default;
};

Stream decode(std::string_view bytes, std::size_t cut) {
  Stream out;
  ExportStreamReader reader(kDir);
  nar::Listing sink;
  std::optional<nar::Reader> nar;
  std::string nar_bytes;
  const auto take = [&] {
    if (nar) {
      const auto raw = reader.raw();
      const auto used = nar->feed(raw);
      nar_bytes += text_of(raw.first(used));
      reader.consume_raw(used);
      if (!nar->finished()) {
        return false;
      }
      nar.reset();
      reader.nar_finished();
      return true;
    }
    auto item = reader.next();
    if (!item) {
      return false;
    }
    if (std::holds_alternative<ExportStreamReader::NarBegins>(*item)) {
      nar.emplace(sink);
    } else if (auto* trailer = std::get_if<ExportTrailer>(&*item)) {
      out.paths.push_back({std::exchange(nar_bytes, {}), std::move(*trailer)});
    } else {
      out.ended = true;
    }
    return true;
  };
  while (!bytes.empty()) {
    const auto piece = bytes.substr(0, cut);
    reader.feed(bytes_of(piece));
    bytes.remove_prefix(piece.size());
    while (take()) {
    }
  }
  out.rest = text_of(reader.raw());
  return out;
}

std::string encode(const Stream& stream) {
  std::string out;
  for (const auto& path : stream.paths) {
    write_export_nar_marker(out);
    out += path.nar;
    write_export_trailer(out, kDir, path.trailer);
  }
  write_export_end(out);
  return out;
}

std::string code_of(const std::string& bytes) {
  try {
    static_cast<void>(decode(bytes, bytes.size()));
  } catch (const Error& error) {
    return error.code();
  }
  return {};
}

} // namespace

TEST_CASE("export stream: what Nix exports decodes and encodes byte for byte",
          "[protocol][golden]") {
  const auto bytes = test::read_file(TEST_DATA_DIR "/protocol/export/three-paths");
  const auto stream = decode(bytes, bytes.size());
  REQUIRE(stream.paths.size() == 3);
  CHECK(stream.ended);
  CHECK(stream.paths[0].trailer.path.name() == "src.txt");
  CHECK(stream.paths[0].nar.size() == 120);
  CHECK(stream.paths[2].trailer.path.base_name() == "529gllchd55q2lh86hdyv62awjakgxwc-top.drv");
  CHECK(stream.paths[2].trailer.references.size() == 2);
  CHECK((encode(stream) == bytes));
  for (const std::size_t cut : {1U, 5U, 100U}) {
    CHECK((decode(bytes, cut) == stream));
  }
}

TEST_CASE("export stream: bytes after the end are left alone", "[protocol]") {
  const auto bytes = test::read_file(TEST_DATA_DIR "/protocol/export/three-paths");
  const auto stream = decode(bytes + "next command", 1U << 20);
  CHECK(stream.ended);
  CHECK(stream.rest == "next command");
}

TEST_CASE("export stream: a stream that ends anywhere invents nothing", "[protocol][property]") {
  const auto bytes = test::read_file(TEST_DATA_DIR "/protocol/export/three-paths");
  const auto whole = decode(bytes, bytes.size());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto part = decode(bytes.substr(0, size), bytes.size());
    REQUIRE_FALSE(part.ended);
    REQUIRE(part.paths.size() <= whole.paths.size());
    REQUIRE(std::equal(part.paths.begin(), part.paths.end(), whole.paths.begin()));
  }
}

TEST_CASE("export stream: a legacy signature is skipped", "[protocol]") {
  auto bytes = test::read_file(TEST_DATA_DIR "/protocol/export/three-paths");
  const auto plain = decode(bytes, bytes.size());
  bytes.resize(bytes.size() - 16); // the last path's signature flag, and the end
  bytes += std::string("\1\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0abc\0\0\0\0\0\0\0\0\0\0\0\0\0", 32);
  CHECK((decode(bytes, 3) == plain));
}

TEST_CASE("export stream: rejects foreign markers and magics", "[protocol][reject]") {
  const auto bytes = test::read_file(TEST_DATA_DIR "/protocol/export/three-paths");
  CHECK(code_of("nix-archive-1") == "export.marker");
  auto marker = bytes;
  marker[0] = 2;
  CHECK(code_of(marker) == "export.marker");
  auto magic = bytes;
  magic[8 + 120] = 'n';
  CHECK(code_of(magic) == "export.magic");
  auto padding = bytes;
  padding[8 + 120 + 8 + 8 + 11 + 40] = 'x';
  CHECK(code_of(padding) == "wire.padding");
}

} // namespace export_stream_test
