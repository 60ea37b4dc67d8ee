// A stream of serve requests or replies decodes to the same values and the same error however it is
// cut, and what was decoded encodes and decodes back to itself. Three bytes before the stream
// choose the side (0: requests; 1 to 4: kind of reply), the minor version, and the cut.

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <variant>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

const model::StoreDir kDir;
/// Small, so that a few bytes of input reach them.
constexpr Limits kLimits{.string_bytes = 4096, .elements = 64, .message_bytes = 16384};

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

struct Requests {
  std::vector<serve::Request> values;
  std::string code;

  bool operator==(const Requests&) const = default;
};

Requests decode_requests(std::string_view stream, Version version, std::size_t cut) {
  Requests out;
  serve::RequestReader reader(kDir, kLimits, version);
  std::uint64_t raw_left = 0;
  try {
    for (; !stream.empty(); stream.remove_prefix(std::min(cut, stream.size()))) {
      reader.feed(bytes_of(stream.substr(0, cut)));
      for (;;) {
        const auto raw = std::min<std::uint64_t>(raw_left, reader.raw().size());
        reader.consume_raw(raw);
        raw_left -= raw;
        if (raw_left > 0) {
          break;
        }
        auto request = reader.next();
        if (!request) {
          break;
        }
        if (const auto* add = std::get_if<serve::AddToStoreNar>(&*request)) {
          raw_left = add->info.nar_size;
        }
        out.values.push_back(std::move(*request));
      }
    }
  } catch (const Error& error) {
    out.code = error.code();
  }
  return out;
}

void check_requests(std::string_view body, Version version, std::size_t cut) {
  std::string stream;
  serve::write_client_hello(stream, version);
  stream += body;
  const auto whole = decode_requests(stream, version, stream.size());
  require(decode_requests(stream, version, cut) == whole);
  for (const auto& request : whole.values) {
    std::string again;
    serve::write_client_hello(again, version);
    serve::write_request(again, kDir, version, request);
    const auto back = decode_requests(again, version, again.size());
    require(back.values.size() == 1 && back.values[0] == request);
  }
}

struct Result {
  model::BuildResult result;
  std::map<std::string, Hash> keys;

  bool operator==(const Result&) const = default;
};

using Entry = std::optional<serve::PathInfoReply>;
using BuildPathsReply = std::pair<std::uint64_t, std::string>;
using Reply = std::variant<model::StorePaths, Entry, BuildPathsReply, Result>;

std::optional<Reply> read_reply(serve::ReplyReader& reader, unsigned kind) {
  if (kind == 1) {
    return reader.read_paths();
  }
  if (kind == 2) {
    return reader.read_path_info();
  }
  if (kind == 3) {
    return reader.read_build_paths_reply();
  }
  Result out;
  auto result = reader.read_build_result(&out.keys);
  if (!result) {
    return std::nullopt;
  }
  out.result = std::move(*result);
  return out;
}

struct Replies {
  std::vector<Reply> values;
  std::string code;

  bool operator==(const Replies&) const = default;
};

Replies decode_replies(std::string_view body, Version version, unsigned kind, std::size_t cut) {
  Replies out;
  std::string stream;
  serve::write_hello(stream, version);
  stream += body;
  serve::ReplyReader reader(kDir, kLimits);
  try {
    for (std::size_t at = 0; at < stream.size(); at += cut) {
      reader.feed(bytes_of(std::string_view(stream).substr(at, cut)));
      if (!reader.read_hello(version)) {
        continue;
      }
      while (auto reply = read_reply(reader, kind)) {
        out.values.push_back(std::move(*reply));
      }
    }
  } catch (const Error& error) {
    out.code = error.code();
  }
  return out;
}

std::string encode_reply(const Reply& reply, Version version) {
  std::string out;
  if (const auto* paths = std::get_if<model::StorePaths>(&reply)) {
    serve::write_paths(out, kDir, *paths);
  } else if (const auto* entry = std::get_if<Entry>(&reply)) {
    if (*entry) {
      serve::write_path_info(out, kDir, version, **entry);
    } else {
      serve::write_end_of_infos(out);
    }
  } else if (const auto* result = std::get_if<Result>(&reply)) {
    serve::write_build_result(out, kDir, version, result->result, result->keys);
  }
  return out;
}

void check_replies(std::string_view body, Version version, unsigned kind, std::size_t cut) {
  const auto whole = decode_replies(body, version, kind, body.size() + 16);
  require(decode_replies(body, version, kind, cut) == whole);
  for (const auto& reply : whole.values) {
    if (std::holds_alternative<BuildPathsReply>(reply)) {
      continue; // Any number is read, only statuses are written.
    }
    const auto again = encode_reply(reply, version);
    const auto back = decode_replies(again, version, kind, again.size() + 16);
    require(back.values.size() == 1 && back.values[0] == reply);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) {
    return 0;
  }
  const unsigned kind = data[0] % 5U;
  const Version version(2, 1U + data[1] % 8U);
  const std::size_t cut = data[2] + std::size_t{1};
  const std::string_view body = text_of({data + 3, size - 3});
  if (kind == 0) {
    check_requests(body, version, cut);
  } else {
    check_replies(body, version, kind, cut);
  }
  return 0;
}
