// Framed streams, and what AddMultipleToStore carries in them.

#include "unit/protocol/worker_samples.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>

#include <random>

namespace framed_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::test;

namespace {

const model::StoreDir kDir;

/// What a stream holds, fed in pieces of random size up to `most`; how much of it was used.
std::pair<std::string, std::size_t>
unframed(std::string_view bytes, std::size_t most, FramedReader& reader) {
  std::minstd_rand random(5);
  std::string out;
  std::size_t used = 0;
  while (!reader.finished() && used < bytes.size()) {
    const auto piece = reader.read(bytes_of(bytes.substr(used, 1 + random() % most)));
    CHECK(piece.used > 0);
    out += text_of(piece.payload);
    used += piece.used;
  }
  return {out, used};
}

std::string code_of(FramedReader& reader, const std::string& bytes) {
  try {
    static_cast<void>(reader.read(bytes_of(bytes)));
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Reject);
    return error.code();
  }
  return {};
}

model::PathInfo sample_info(std::uint64_t nar_size) {
  return {.path = sample_path("p"),
          .deriver = {},
          .nar_hash = {},
          .nar_size = nar_size,
          .references = {sample_path("a")},
          .registration_time = 0,
          .ultimate = false,
          .signatures = {},
          .content_address = {}};
}

std::string stream_code(const std::string& bytes, const Limits& limits = {}) {
  PathInfoStream stream(kDir, limits);
  stream.feed(bytes_of(bytes));
  try {
    while (stream.next()) {
    }
  } catch (const Error& error) {
    CHECK_THROWS_AS(stream.next(), Error);
    return error.code();
  }
  return {};
}

} // namespace

TEST_CASE("framed streams: the bytes of two frames", "[protocol][golden]") {
  std::string out;
  write_frame(out, bytes_of("abc"));
  write_frame(out, {});
  write_frame(out, bytes_of("d"));
  write_end_of_frames(out);
  CHECK(hex_encode(bytes_of(out)) == "0300000000000000616263"
                                     "010000000000000064"
                                     "0000000000000000");
}

TEST_CASE("framed streams: payload comes back however the bytes are cut", "[protocol][property]") {
  std::string payload;
  std::string stream;
  for (int i = 0; i < 40; ++i) {
    const std::string part(static_cast<std::size_t>(i * i % 37), static_cast<char>('a' + i % 26));
    payload += part;
    write_frame(stream, bytes_of(part));
  }
  write_end_of_frames(stream);
  const std::size_t size = stream.size();
  stream += "what follows";
  for (const std::size_t most : {1U, 2U, 7U, 8U, 9U, 64U, 4096U}) {
    FramedReader reader;
    const auto [text, used] = unframed(stream, most, reader);
    CHECK(text == payload);
    CHECK(used == size);
    CHECK(reader.finished());
    CHECK(reader.payload_bytes() == payload.size());
    CHECK(reader.read(bytes_of("more")).used == 0);
  }
}

TEST_CASE("framed streams: an end that has not come is no end", "[protocol]") {
  std::string stream;
  write_frame(stream, bytes_of("abc"));
  write_end_of_frames(stream);
  for (std::size_t size = 0; size < stream.size(); ++size) {
    FramedReader reader;
    static_cast<void>(unframed(std::string_view(stream).substr(0, size), 1, reader));
    CHECK(!reader.finished());
  }
}

TEST_CASE("framed streams: the length of a frame is limited", "[protocol][reject]") {
  const std::string five = std::string("\5\0\0\0\0\0\0\0", 8);
  FramedReader five_fit(5);
  CHECK(code_of(five_fit, five).empty());
  FramedReader four_fit(4);
  CHECK(code_of(four_fit, five) == "framed.length");
  CHECK(code_of(four_fit, "more") == "framed.length");
  FramedReader reader;
  CHECK(code_of(reader, std::string("\0\0\0\0\1\0\0\0", 8)) == "framed.length");
  FramedReader largest;
  CHECK(code_of(largest, std::string("\xff\xff\xff\xff\0\0\0\0", 8)).empty());
}

TEST_CASE("path info streams: an archive's bytes are the caller's to take", "[protocol]") {
  std::string bytes;
  write_path_count(bytes, 2);
  write_path_info(bytes, kDir, sample_info(3));
  bytes += "nar";
  write_path_info(bytes, kDir, sample_info(0));
  PathInfoStream stream(kDir);
  stream.feed(bytes_of(bytes));
  using Item = PathInfoStream::Item;
  CHECK((stream.next() == Item(PathInfoStream::Count{2})));
  CHECK(stream.nar().empty());
  CHECK((stream.next() == Item(sample_info(3))));
  CHECK(stream.nar_left() == 3);
  CHECK(!stream.next());
  CHECK(text_of(stream.nar()) == "nar");
  stream.consume_nar(2);
  CHECK(!stream.next());
  CHECK(text_of(stream.nar()) == "r");
  stream.consume_nar(1);
  CHECK((stream.next() == Item(sample_info(0))));
  CHECK(!stream.finished());
  CHECK((stream.next() == Item(PathInfoStream::End{})));
  CHECK(!stream.next());
  CHECK(stream.finished());
  stream.feed(bytes_of("x"));
  CHECK(!stream.finished());
}

TEST_CASE("path info streams: none at all", "[protocol]") {
  std::string bytes;
  write_path_count(bytes, 0);
  PathInfoStream stream(kDir);
  CHECK(!stream.next());
  stream.feed(bytes_of(bytes));
  CHECK((stream.next() == PathInfoStream::Item(PathInfoStream::Count{0})));
  CHECK((stream.next() == PathInfoStream::Item(PathInfoStream::End{})));
  CHECK(stream.finished());
}

TEST_CASE("path info streams: counts, strings and paths are checked", "[protocol][reject]") {
  const Limits limits{.string_bytes = 100, .elements = 3, .message_bytes = 1000};
  const auto count = [](std::uint64_t paths) {
    std::string out;
    write_path_count(out, paths);
    return out;
  };
  CHECK(stream_code(count(3), limits).empty());
  CHECK(stream_code(count(4), limits) == "wire.limit");
  CHECK(stream_code(count(1) + count(101), limits) == "wire.limit");
  std::string info;
  write_path_info(info, kDir, sample_info(1));
  CHECK(stream_code(count(1) + info).empty());
  auto other_dir = info;
  other_dir[9] = 'x';
  CHECK(stream_code(count(1) + other_dir) == "store-path.outside");
}

TEST_CASE("derived paths: texts of both forms come back", "[protocol]") {
  using Wants = DerivedPath::Wants;
  const std::string dir = "/nix/store/7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-";
  const auto check = [&](const std::string& text, DerivedPathForm form, const DerivedPath& path) {
    CAPTURE(text);
    CHECK(parse_derived_path(kDir, dir + text, form) == path);
    CHECK(print(kDir, path, form) == dir + text);
  };
  for (const auto form : {DerivedPathForm::Marked, DerivedPathForm::Bare}) {
    check("a", form, {sample_path("a"), Wants::Path, {}});
    check("a.drv!out", form, {sample_path("a.drv"), Wants::Outputs, {"out"}});
    check("a.drv!out,dev", form, {sample_path("a.drv"), Wants::Outputs, {"out", "dev"}});
    check("a.drv!out!dev", form, {sample_path("a.drv"), Wants::Nested, {"out", "dev"}});
    check("a.drv!x!out!a,b", form, {sample_path("a.drv"), Wants::Nested, {"x", "out", "a,b"}});
  }
  check("a.drv", DerivedPathForm::Marked, {sample_path("a.drv"), Wants::Path, {}});
  check(
      "a.drv!out!*", DerivedPathForm::Marked, {sample_path("a.drv"), Wants::Nested, {"out", "*"}});
  check("a.drv!*", DerivedPathForm::Marked, {sample_path("a.drv"), Wants::AllOutputs, {}});
  check("a.drv", DerivedPathForm::Bare, {sample_path("a.drv"), Wants::AllOutputs, {}});
}

TEST_CASE("derived paths: what cannot be asked for is refused", "[protocol][reject]") {
  const std::string dir = "/nix/store/7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-";
  const auto code = [&](const std::string& text, DerivedPathForm form = DerivedPathForm::Marked) {
    try {
      static_cast<void>(parse_derived_path(kDir, text, form));
    } catch (const Error& error) {
      return error.code();
    }
    return std::string();
  };
  for (const auto* text : {"a!out",
                           "a!*",
                           "a.drv!",
                           "a.drv!,",
                           "a.drv!out,",
                           "a.drv!o/t",
                           "a.drv!out,out",
                           "a.drv!!dev",
                           "a.drv!*!dev",
                           "a.drv!a,b!dev",
                           "a.drv!out!",
                           "a.drv!out!a,a",
                           "a!out!dev",
                           "a.drv!*,out"}) {
    CAPTURE(text);
    CHECK(code(dir + text) == "derived-path.form");
  }
  CHECK(code(dir + "a.drv!*", DerivedPathForm::Bare) == "derived-path.form");
  CHECK(code("/tmp/a.drv!out") == "store-path.outside");
  const DerivedPath file{sample_path("a.drv"), DerivedPath::Wants::Path, {}};
  CHECK_THROWS_AS(print(kDir, file, DerivedPathForm::Bare), Error);
}

} // namespace framed_test
