#include "unit/nar/random_tree.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/writer.hpp>

#include <catch2/catch.hpp>

#include <functional>
#include <string>

using namespace nixbuild;

namespace {

std::string code_of(const std::function<void(nar::Writer&)>& calls,
                    const nar::Limits& limits = {}) {
  std::string out;
  StringSink sink(out);
  nar::Writer writer(sink, limits);
  try {
    calls(writer);
    writer.finish();
  } catch (const Error& error) {
    return error.code();
  }
  return "accepted";
}

void file(nar::Writer& writer) {
  writer.regular(false, 0);
  writer.regular_end();
}

} // namespace

TEST_CASE("nar writer: refuses what a reader would refuse", "[nar][reject]") {
  CHECK(code_of([](nar::Writer& w) { w.symlink(""); }) == "nar.target");
  CHECK(code_of([](nar::Writer& w) { w.symlink(std::string(4096, 'x')); }) == "nar.target");
  CHECK(code_of([](nar::Writer& w) {
          w.directory();
          w.entry("a/b");
        }) == "nar.name");
  CHECK(code_of([](nar::Writer& w) {
          w.directory();
          w.entry(std::string(256, 'x'));
        }) == "nar.name");
  CHECK(code_of([](nar::Writer& w) {
          w.directory();
          w.entry("b");
          file(w);
          w.entry("a");
        }) == "nar.unsorted-entry");
  CHECK(code_of([](nar::Writer& w) {
          for (int i = 0; i < 64; ++i) {
            w.directory();
            w.entry("d");
          }
        }) == "nar.depth");
  nar::Limits one;
  one.entries = 1;
  CHECK(code_of(
            [](nar::Writer& w) {
              w.directory();
              w.entry("a");
              file(w);
            },
            one) == "nar.limit");
  CHECK(code_of([](nar::Writer& w) { w.regular(false, ~std::uint64_t{0}); }) == "nar.limit");
}

TEST_CASE("nar writer: refuses calls out of order", "[nar][reject]") {
  CHECK(code_of([](nar::Writer&) {}) == "nar.truncated");
  CHECK(code_of([](nar::Writer& w) { w.directory(); }) == "nar.truncated");
  CHECK(code_of([](nar::Writer& w) { w.regular_end(); }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) { w.entry("a"); }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) { w.directory_end(); }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) { w.contents(bytes_of("x")); }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) {
          file(w);
          file(w);
        }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) {
          w.regular(false, 1);
          w.contents(bytes_of("xy"));
        }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) {
          w.regular(false, 2);
          w.contents(bytes_of("x"));
          w.regular_end();
        }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) {
          w.directory();
          w.entry("a");
          w.directory_end();
        }) == "nar.syntax");
  CHECK(code_of([](nar::Writer& w) {
          w.directory();
          file(w);
        }) == "nar.syntax");
}

TEST_CASE("nar writer: gathers small pieces and lets large ones through uncopied", "[nar]") {
  struct Sink final : ByteSink {
    void write(ByteView bytes) override {
      ++calls;
      through |= bytes.data() == large.data() && bytes.size() == large.size();
    }

    std::string_view text;
    ByteView large;
    int calls = 0;
    bool through = false;
  };

  const std::string large(1'000'000, 'x');
  Sink sink;
  sink.large = bytes_of(large);
  nar::Writer writer(sink);
  writer.directory();
  for (int i = 0; i < 100; ++i) {
    writer.entry("a" + std::to_string(1000 + i));
    file(writer);
  }
  writer.entry("b");
  writer.regular(false, large.size());
  writer.contents(bytes_of(large));
  writer.regular_end();
  writer.directory_end();
  writer.finish();
  CHECK(sink.through);
  CHECK(sink.calls == 3);
}
