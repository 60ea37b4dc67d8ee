// Whatever is accepted as a NAR must encode to the same bytes again, however the input was cut;
// whatever is refused must be refused with the same error. The first byte of the input chooses the
// cut, the rest is the archive.

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>

using namespace nixbuild;

namespace {

struct Outcome {
  std::string written;
  std::string code;
  std::size_t consumed = 0;

  bool operator==(const Outcome&) const = default;
};

Outcome run(ByteView archive, std::size_t cut) {
  Outcome outcome;
  StringSink sink(outcome.written);
  nar::Writer writer(sink);
  nar::Reader reader(writer);
  try {
    while (!reader.finished() && outcome.consumed < archive.size()) {
      const ByteView rest = archive.subspan(outcome.consumed);
      outcome.consumed += reader.feed(rest.first(std::min(cut, rest.size())));
    }
    reader.expect_finished();
    writer.finish();
  } catch (const Error& error) {
    outcome.code = error.code();
    outcome.consumed = 0;
    outcome.written.clear();
  }
  return outcome;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const ByteView archive(data + 1, size - 1);
  const Outcome whole = run(archive, archive.size() + 1);
  if (whole != run(archive, data[0] + std::size_t{1})) {
    std::abort();
  }
  if (whole.code.empty() && text_of(archive.first(whole.consumed)) != whole.written) {
    std::abort();
  }
  return 0;
}
