#include "unit/nar/random_tree.hpp"

#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <vector>

using namespace nixbuild;
using test::FileTree;

namespace {

/// Writes down each call as a line; the contents of one file are joined.
class Recorder final : public nar::EventSink {
public:
  void regular(bool executable, std::uint64_t size) override {
    log += (executable ? "exec " : "file ") + std::to_string(size) + " ";
    expected_ = size;
  }

  void contents(ByteView bytes) override {
    CHECK_FALSE(bytes.empty());
    REQUIRE(bytes.size() <= expected_);
    expected_ -= bytes.size();
    log += text_of(bytes);
  }

  void regular_end() override {
    CHECK(expected_ == 0);
    log += "\n";
  }

  void symlink(std::string_view target) override { log += "link " + std::string(target) + "\n"; }

  void directory() override { log += "dir\n"; }

  void entry(std::string_view name) override { log += "entry " + std::string(name) + "\n"; }

  void directory_end() override { log += "end\n"; }

  std::string log;

private:
  std::uint64_t expected_ = 0;
};

std::string str(std::string_view text) {
  std::string out;
  for (unsigned i = 0; i < 8; ++i) {
    out += static_cast<char>(text.size() >> (8 * i));
  }
  out += text;
  return out.append(nar::padding_of(text.size()), '\0');
}

template <class... Texts>
std::string strs(const Texts&... texts) {
  return (... + str(texts));
}

const std::string kBegin = strs("nix-archive-1", "(", "type");

std::string entry(std::string_view name, const std::string& node) {
  return strs("entry", "(", "name", name, "node") + node + str(")");
}

const std::string kEmptyFile = strs("(", "type", "regular", "contents", "", ")");

std::string directory(const std::string& entries) {
  return kBegin + str("directory") + entries + str(")");
}

std::string feed_all(std::string_view archive, std::size_t cut, const nar::Limits& limits = {}) {
  Recorder recorder;
  nar::Reader reader(recorder, limits);
  for (std::size_t at = 0; at < archive.size(); at += cut) {
    const auto piece = archive.substr(at, cut);
    if (reader.feed(bytes_of(piece)) < piece.size()) {
      break;
    }
  }
  reader.expect_finished();
  return recorder.log;
}

std::string code_of(std::string_view archive, std::size_t cut, const nar::Limits& limits = {}) {
  try {
    feed_all(archive, cut, limits);
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Reject);
    return error.code();
  }
  return "accepted";
}

/// The code, the same for the whole input at once and byte by byte.
std::string code_of(std::string_view archive, const nar::Limits& limits = {}) {
  const auto whole = code_of(archive, archive.size() + 1, limits);
  CHECK(code_of(archive, 1, limits) == whole);
  CHECK(code_of(archive, 7, limits) == whole);
  return whole;
}

} // namespace

TEST_CASE("nar reader: reads a known file", "[nar][golden]") {
  const auto archive = hex_decode(
      "0d000000000000006e69782d617263686976652d3100000001000000000000002800000000000000040000000000"
      "000074797065000000000700000000000000726567756c6172000800000000000000636f6e74656e747305000000"
      "0000000068656c6c6f00000001000000000000002900000000000000");
  CHECK(feed_all(text_of(archive), 1000) == "file 5 hello\n");
  CHECK(nix32_encode(hash_of(HashAlgorithm::Sha256, archive).bytes()) ==
        "0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa");
}

TEST_CASE("nar writer: writes known archives", "[nar][golden]") {
  const auto hello = test::nar_of(FileTree::file("hello"));
  CHECK(hello.size() == 120);
  CHECK(nix32_encode(hash_of(HashAlgorithm::Sha256, bytes_of(hello)).bytes()) ==
        "0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa");
  const auto empty = test::nar_of(FileTree::directory());
  CHECK(empty.size() == 96);
  CHECK(nix32_encode(hash_of(HashAlgorithm::Sha256, bytes_of(empty)).bytes()) ==
        "0sjjj9z1dhilhpc8pq4154czrb79z9cm044jvn75kxcjv6v5l2m5");
}

TEST_CASE("nar reader: reports every kind of node in order", "[nar][golden]") {
  const auto archive =
      directory(entry("a", strs("(", "type", "regular", "executable", "", "contents", "x\n", ")")) +
                entry("b", strs("(", "type", "directory") + entry("c", kEmptyFile) + str(")")) +
                entry("d", strs("(", "type", "symlink", "target", "../b", ")")));
  const std::string log = "dir\nentry a\nexec 2 x\n\nentry b\ndir\nentry c\nfile 0 \nend\n"
                          "entry d\nlink ../b\nend\n";
  for (std::size_t cut = 1; cut <= archive.size(); ++cut) {
    REQUIRE(feed_all(archive, cut) == log);
  }
}

TEST_CASE("nar reader: leaves alone what follows the archive", "[nar]") {
  const auto archive = directory(entry("a", kEmptyFile));
  for (const std::size_t cut : {1U, 5U, 48U, 10'000U}) {
    const std::string stream = archive + std::string(100, 'x');
    Recorder recorder;
    nar::Reader reader(recorder);
    std::size_t at = 0;
    while (!reader.finished()) {
      at += reader.feed(bytes_of(std::string_view(stream).substr(at, cut)));
      CHECK(reader.offset() == at);
    }
    CHECK(at == archive.size());
    CHECK(reader.feed(bytes_of(stream)) == 0);
  }
}

TEST_CASE("nar reader: refuses what is not a NAR", "[nar][reject]") {
  CHECK(code_of(strs("nix-archive-2", "(", "type", "regular", "contents", "", ")")) ==
        "nar.syntax");
  CHECK(code_of(kBegin + strs("device", "contents", "", ")")) == "nar.syntax");
  CHECK(code_of(kBegin + strs("directorz", ")")) == "nar.syntax");
  CHECK(code_of(kBegin + strs("regular", ")", "", "")) == "nar.syntax");
  CHECK(code_of(kBegin + strs("regular", "contents", "", "(")) == "nar.syntax");
  CHECK(code_of(kBegin + strs("regular", "contents", "", "executable", "", ")")) == "nar.syntax");
  CHECK(code_of(kBegin + strs("regular", "executable", "1", "contents", "", ")")) == "nar.syntax");
  CHECK(code_of(kBegin + strs("symlink", "contents", "x", ")")) == "nar.syntax");
  CHECK(code_of(directory(strs("entry", "(", "node") + kEmptyFile + str(")"))) == "nar.syntax");
  CHECK(code_of(directory(strs("entry", "(", "name", "a", "bode") + kEmptyFile + str(")"))) ==
        "nar.syntax");
  CHECK(code_of(directory(str("exit"))) == "nar.syntax");
}

TEST_CASE("nar reader: refuses padding that is not zero, wherever it is", "[nar][reject]") {
  const auto archive = test::nar_of(FileTree::directory(
      {{"bin", FileTree::file("12345", true)}, {"ln", FileTree::link("target")}}));
  std::size_t refused = 0;
  for (std::size_t at = 0; at < archive.size(); ++at) {
    auto broken = archive;
    broken[at] = static_cast<char>(broken[at] ^ 0x40);
    const auto code = code_of(broken);
    if (archive[at] == '\0' && code == "nar.padding") {
      ++refused;
    }
    // A bit of a name, of contents or of a target may change freely.
    if (code == "accepted") {
      CHECK(archive[at] != '\0');
    }
  }
  // An archive is nothing but strings.
  std::size_t padding = 0;
  for (std::size_t at = 0; at < archive.size();) {
    const auto length = static_cast<unsigned char>(archive[at]); // all are shorter than 256
    padding += nar::padding_of(length);
    at += 8 + length + nar::padding_of(length);
  }
  CHECK(padding > 100);
  CHECK(refused == padding);
}

TEST_CASE("nar reader: refuses bad names", "[nar][reject]") {
  for (const std::string_view name : {"", ".", "..", "a/b", "/", "a_b"}) {
    const std::string text = name == "a_b" ? std::string("a\0b", 3) : std::string(name);
    CHECK(code_of(directory(entry(text, kEmptyFile))) == "nar.name");
    CHECK_FALSE(nar::valid_name(text));
  }
  CHECK(code_of(directory(entry(std::string(255, 'n'), kEmptyFile))) == "accepted");
  CHECK(code_of(directory(entry(std::string(256, 'n'), kEmptyFile))) == "nar.name");
  CHECK(code_of(directory(entry("...", kEmptyFile))) == "accepted");
}

TEST_CASE("nar reader: refuses a name's length before its bytes", "[nar][reject]") {
  auto announced = directory(strs("entry", "(", "name"));
  announced.resize(announced.size() - 16);
  announced += std::string(8, '\xff');
  CHECK(code_of(announced) == "nar.name");
  CHECK(code_of(kBegin + strs("symlink", "target") + std::string(8, '\xff')) == "nar.target");
  CHECK(code_of(kBegin + strs("regular", "contents") + std::string(8, '\xff')) == "nar.limit");
}

TEST_CASE("nar reader: refuses unsorted and repeated entries", "[nar][reject]") {
  CHECK(code_of(directory(entry("b", kEmptyFile) + entry("a", kEmptyFile))) ==
        "nar.unsorted-entry");
  CHECK(code_of(directory(entry("a", kEmptyFile) + entry("a", kEmptyFile))) ==
        "nar.unsorted-entry");
  CHECK(code_of(directory(entry("\xff", kEmptyFile) + entry("a", kEmptyFile))) ==
        "nar.unsorted-entry");
  CHECK(code_of(directory(entry("A", kEmptyFile) + entry("a", kEmptyFile) +
                          entry("aa", kEmptyFile))) == "accepted");
  // A directory inside does not make the outer one forget.
  const auto inner = strs("(", "type", "directory") + entry("z", kEmptyFile) + str(")");
  CHECK(code_of(directory(entry("b", inner) + entry("a", kEmptyFile))) == "nar.unsorted-entry");
  CHECK(code_of(directory(entry("b", inner) + entry("c", inner))) == "accepted");
}

TEST_CASE("nar reader: refuses bad targets", "[nar][reject]") {
  const auto link = [](const std::string& target) {
    return kBegin + strs("symlink", "target", target, ")");
  };
  CHECK(code_of(link("")) == "nar.target");
  CHECK(code_of(link(std::string("a\0b", 3))) == "nar.target");
  CHECK(code_of(link(std::string(4096, 't'))) == "nar.target");
  CHECK(code_of(link(std::string(4095, 't'))) == "accepted");
}

TEST_CASE("nar reader: refuses trees that are too deep", "[nar][reject]") {
  const auto nested = [](std::size_t levels) {
    FileTree tree = FileTree::file("x");
    for (std::size_t i = 1; i < levels; ++i) {
      tree = FileTree::directory({{"d", tree}});
    }
    std::string out;
    StringSink sink(out);
    nar::Limits deep;
    deep.depth = 1000;
    nar::Writer writer(sink, deep);
    emit(tree, writer);
    writer.finish();
    return out;
  };
  CHECK(code_of(nested(64)) == "accepted");
  CHECK(code_of(nested(65)) == "nar.depth");
}

TEST_CASE("nar reader: keeps to the limits of nodes and bytes", "[nar][reject]") {
  const auto archive =
      test::nar_of(FileTree::directory({{"a", FileTree::file("x")}, {"b", FileTree::link("a")}}));
  nar::Limits limits;
  limits.entries = 3;
  limits.total_bytes = archive.size();
  CHECK(code_of(archive, limits) == "accepted");
  limits.entries = 2;
  CHECK(code_of(archive, limits) == "nar.limit");
  limits.entries = 3;
  limits.total_bytes = archive.size() - 1;
  CHECK(code_of(archive, limits) == "nar.limit");
}

TEST_CASE("nar reader: notices every truncation, and is dead after an error", "[nar][reject]") {
  const auto archive = test::nar_of(test::TreeGenerator(5, 50).tree());
  for (std::size_t size = 0; size < archive.size(); size += size < 2000 ? 1 : 997) {
    REQUIRE(code_of(std::string_view(archive).substr(0, size), 4096) == "nar.truncated");
  }
  Recorder recorder;
  nar::Reader reader(recorder);
  const std::string bad(100, 'x');
  CHECK_THROWS_AS(reader.feed(bytes_of(bad)), Error);
  CHECK_THROWS_AS(reader.feed(bytes_of(archive)), Error);
  CHECK_THROWS_AS(reader.expect_finished(), Error);
  CHECK_FALSE(reader.finished());
}

TEST_CASE("nar reader: random trees come through unchanged in any cut", "[nar][property]") {
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    test::TreeGenerator generator(seed, 70'000);
    const auto archive = test::nar_of(generator.tree());
    for (int round = 0; round < 3; ++round) {
      std::string again;
      StringSink sink(again);
      nar::Writer writer(sink);
      nar::Reader reader(writer);
      const std::size_t cut =
          round == 0 ? archive.size() : 1 + generator.below(round == 1 ? 40 : 9000);
      for (std::size_t at = 0; at < archive.size(); at += cut) {
        reader.feed(bytes_of(std::string_view(archive).substr(at, cut)));
      }
      reader.expect_finished();
      writer.finish();
      REQUIRE(again == archive);
    }
  }
}

TEST_CASE("nar reader: a sink's exception passes and ends the reading", "[nar][fault]") {
  struct Thrower final : nar::EventSink {
    void call() {
      if (calls++ == fail_at) {
        throw Error(Reaction::Busy, "test.full", "full");
      }
    }

    void regular(bool, std::uint64_t) override { call(); }

    void contents(ByteView) override { call(); }

    void regular_end() override { call(); }

    void symlink(std::string_view) override { call(); }

    void directory() override { call(); }

    void entry(std::string_view) override { call(); }

    void directory_end() override { call(); }

    int calls = 0;
    int fail_at = 0;
  };

  const auto archive =
      test::nar_of(FileTree::directory({{"a", FileTree::file("x")}, {"b", FileTree::link("a")}}));
  for (int n = 0;; ++n) {
    Thrower thrower;
    thrower.fail_at = n;
    nar::Reader reader(thrower);
    try {
      reader.feed(bytes_of(archive));
      CHECK(n == 8);
      CHECK(reader.finished());
      break;
    } catch (const Error& error) {
      CHECK(error.code() == "test.full");
      CHECK_FALSE(reader.finished());
    }
  }
}
