// An export stream gives the same items however it is cut, and the same error; a trailer encodes
// and decodes back to itself. The first byte chooses the cut.

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/protocol/export_stream.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

const model::StoreDir kDir;
constexpr Limits kLimits{.string_bytes = 4096, .elements = 64, .message_bytes = 16384};

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

class NoEvents final : public nar::EventSink {
public:
  void regular(bool, std::uint64_t) override {}

  void contents(ByteView) override {}

  void regular_end() override {}

  void symlink(std::string_view) override {}

  void directory() override {}

  void entry(std::string_view) override {}

  void directory_end() override {}
};

struct Stream {
  std::vector<ExportTrailer> trailers;
  std::string archives;
  bool ended = false;
  std::string code;

  bool operator==(const Stream&) const = default;
};

/// Reads what is at hand; false when more bytes are needed.
class Import {
public:
  void take(std::string_view bytes) {
    reader_.feed(bytes_of(bytes));
    while (step()) {
    }
  }

  Stream stream;

private:
  bool step() {
    if (archive_) {
      const auto raw = reader_.raw();
      const auto used = archive_->feed(raw);
      stream.archives += text_of(raw.first(used));
      reader_.consume_raw(used);
      if (!archive_->finished()) {
        return false;
      }
      archive_.reset();
      reader_.nar_finished();
    }
    auto item = reader_.next();
    if (!item || stream.ended) {
      return false;
    }
    if (auto* trailer = std::get_if<ExportTrailer>(&*item)) {
      stream.trailers.push_back(std::move(*trailer));
    } else if (std::holds_alternative<ExportStreamReader::NarBegins>(*item)) {
      archive_.emplace(nothing_);
    } else {
      stream.ended = true;
      return false;
    }
    return true;
  }

  NoEvents nothing_;
  ExportStreamReader reader_{kDir, kLimits};
  std::optional<nar::Reader> archive_;
};

Stream read(std::string_view bytes, std::size_t cut) {
  Import import;
  try {
    for (; !bytes.empty() && !import.stream.ended;
         bytes.remove_prefix(std::min(cut, bytes.size()))) {
      import.take(bytes.substr(0, cut));
    }
  } catch (const Error& error) {
    require(error.reaction() == Reaction::Reject);
    import.stream.code = error.code();
    import.stream.archives.clear(); // how much of a bad archive was taken depends on the cut
  }
  return import.stream;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view bytes = text_of({data + 1, size - 1});
  const auto whole = read(bytes, bytes.size() + 1);
  require(read(bytes, data[0] + std::size_t{1}) == whole);
  std::string again;
  for (const auto& trailer : whole.trailers) {
    write_export_nar_marker(again);
    // The smallest archive: a link to "x".
    for (const std::string_view word :
         {"nix-archive-1", "(", "type", "symlink", "target", "x", ")"}) {
      again += static_cast<char>(word.size());
      again += std::string(7, '\0');
      again += word;
      again += std::string((8 - word.size() % 8) % 8, '\0');
    }
    write_export_trailer(again, kDir, trailer);
  }
  write_export_end(again);
  const auto back = read(again, 7);
  require(back.ended && back.trailers == whole.trailers);
  return 0;
}
