// A framed stream gives the same payload, end and error however it is cut, and its payload read as
// AddMultipleToStore's gives the same items; they encode and decode back to themselves. One byte
// before the stream chooses the cut.

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/framed.hpp>
#include <nixbuild/protocol/path_info_stream.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

const model::StoreDir kDir;
/// Small, so that a few bytes of input reach them.
constexpr Limits kLimits{.string_bytes = 4096, .elements = 64, .message_bytes = 16384};
constexpr std::uint64_t kFrameLimit = 8192;

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

struct Unframed {
  std::string payload;
  std::size_t used = 0;
  bool finished = false;
  std::string code;

  bool operator==(const Unframed&) const = default;
};

Unframed unframe(std::string_view stream, std::size_t cut) {
  Unframed out;
  FramedReader reader(kFrameLimit);
  try {
    while (!stream.empty() && !reader.finished()) {
      const auto bytes = bytes_of(stream.substr(0, cut));
      const auto piece = reader.read(bytes);
      require(piece.used > 0 && piece.used <= bytes.size());
      out.payload += text_of(piece.payload);
      out.used += piece.used;
      stream.remove_prefix(piece.used);
    }
  } catch (const Error& error) {
    out.code = error.code();
    out.used = 0; // Where within its length a frame is refused does not matter.
  }
  require(out.payload.size() == reader.payload_bytes());
  out.finished = reader.finished();
  return out;
}

struct Items {
  std::vector<PathInfoStream::Item> values;
  std::string contents; ///< of all archives
  std::string code;
  bool finished = false;

  bool operator==(const Items&) const = default;
};

Items items_of(std::string_view payload, std::size_t cut) {
  Items out;
  PathInfoStream stream(kDir, kLimits);
  try {
    for (; !payload.empty(); payload.remove_prefix(std::min(cut, payload.size()))) {
      stream.feed(bytes_of(payload.substr(0, cut)));
      for (;;) {
        const auto nar = stream.nar();
        require(nar.size() <= stream.nar_left());
        out.contents += text_of(nar);
        stream.consume_nar(nar.size());
        auto item = stream.next();
        if (!item) {
          break;
        }
        out.values.push_back(std::move(*item));
      }
    }
  } catch (const Error& error) {
    require(error.reaction() == Reaction::Reject);
    out.code = error.code();
  }
  out.finished = stream.finished();
  return out;
}

/// Each info in a stream of its own.
void check_infos(const Items& items) {
  for (const auto& item : items.values) {
    const auto* info = std::get_if<model::PathInfo>(&item);
    if (info == nullptr) {
      continue;
    }
    std::string again;
    write_path_count(again, 1);
    write_path_info(again, kDir, *info);
    const auto back = items_of(again, again.size());
    require(back.values.size() >= 2 && back.values[1] == item);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) {
    return 0;
  }
  const std::size_t cut = data[0] + std::size_t{1};
  const std::string_view stream = text_of({data + 1, size - 1});
  const auto whole = unframe(stream, stream.size());
  require(unframe(stream, cut) == whole);
  std::string again;
  write_frame(again, bytes_of(whole.payload));
  write_end_of_frames(again);
  if (whole.payload.size() <= kFrameLimit) {
    require(unframe(again, cut).payload == whole.payload);
  }
  const auto items = items_of(whole.payload, whole.payload.size() + 1);
  require(items_of(whole.payload, cut) == items);
  check_infos(items);
  return 0;
}
