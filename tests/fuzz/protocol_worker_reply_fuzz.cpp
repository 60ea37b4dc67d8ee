// A worker server's stream decodes to the same messages and error however it is cut; what was
// decoded encodes and decodes back to itself. Four bytes before the stream choose the operation
// whose replies it holds (0: messages of the stderr channel), the minor version, the features, and
// the cut; the stream begins after the server's greeting.

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/worker.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

const model::StoreDir kDir;
/// Small, so that a few bytes of input reach them.
constexpr Limits kLimits{.string_bytes = 4096, .elements = 64, .message_bytes = 16384};
/// Replies that take no bytes would never end.
constexpr std::size_t kMostMessages = 4096;

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

/// One request for each form of reply that takes bytes.
const std::vector<worker::Request>& requests() {
  static const model::StorePath path(Bytes(20), "a");
  static const std::vector<worker::Request> out{worker::IsValidPath{path},
                                                worker::AddTextToStore{},
                                                worker::QueryDeriver{path},
                                                worker::QueryReferrers{path},
                                                worker::AddPermRoot{path, {}},
                                                worker::QueryDerivationOutputNames{path},
                                                worker::AddToStore{},
                                                worker::QueryPathInfo{path},
                                                worker::FindRoots{},
                                                worker::CollectGarbage{},
                                                worker::QuerySubstitutablePathInfo{path},
                                                worker::QuerySubstitutablePathInfos{},
                                                worker::QueryMissing{},
                                                worker::QueryDerivationOutputMap{path},
                                                worker::BuildDerivation{path, {}, {}},
                                                worker::BuildPathsWithResults{},
                                                worker::QueryRealisation{{Hash(), "out"}}};
  return out;
}

using Message = std::variant<worker::LogMessage, worker::Reply>;

struct Messages {
  std::vector<Message> values;
  std::string code;

  bool operator==(const Messages&) const = default;
};

struct Setting {
  worker::Peer peer;
  std::size_t kind; ///< 0: the stderr channel; else one more than the request's index
};

std::string greeting(const worker::Peer& peer) {
  std::string out;
  worker::write_hello(out, peer.version);
  if (peer.version >= Version{1, 38}) {
    worker::write_features(out, peer.features);
  }
  worker::write_welcome(out, peer, "9", worker::Trust::Trusted);
  return out;
}

/// The next message, as soon as the greeting is over.
std::optional<Message> take(worker::ReplyReader& reader, bool& greeted, std::size_t kind) {
  greeted = greeted || reader.read_welcome().has_value();
  if (!greeted) {
    return std::nullopt;
  }
  if (kind == 0) {
    return reader.read_log();
  }
  return reader.read_reply(requests()[kind - 1]);
}

Messages decode(std::string_view body, const Setting& setting, std::size_t cut) {
  Messages out;
  const std::string stream = greeting(setting.peer) + std::string(body);
  worker::ReplyReader reader(kDir, kLimits, setting.peer.version, setting.peer.features);
  bool greeted = false;
  try {
    for (std::size_t at = 0; at < stream.size(); at += cut) {
      reader.feed(bytes_of(std::string_view(stream).substr(at, cut)));
      while (auto message = take(reader, greeted, setting.kind)) {
        out.values.push_back(std::move(*message));
        require(out.values.size() <= kMostMessages + stream.size());
      }
    }
  } catch (const Error& error) {
    require(error.reaction() == Reaction::Reject);
    out.code = error.code();
  }
  return out;
}

std::string encode(const Message& message, const worker::Peer& peer) {
  std::string out;
  if (const auto* log = std::get_if<worker::LogMessage>(&message)) {
    worker::write_log(out, peer, *log);
  } else {
    worker::write_reply(out, kDir, peer, std::get<worker::Reply>(message));
  }
  return out;
}

/// A client reads more than a server of that version writes.
bool is_written(const Message& message, const worker::Peer& peer) {
  const auto* log = std::get_if<worker::LogMessage>(&message);
  return log == nullptr || peer.version >= Version{1, 20} ||
         !(std::holds_alternative<worker::StartActivity>(*log) ||
           std::holds_alternative<worker::StopActivity>(*log) ||
           std::holds_alternative<worker::ActivityResult>(*log));
}

Setting setting_of(const std::uint8_t* data) {
  Setting out{{Version(1, 18U + data[1] % 21U), {}}, data[0] % (requests().size() + 1)};
  if (out.peer.version >= Version{1, 38} && (data[2] & 1U) != 0) {
    out.peer.features.emplace(worker::kRealisationWithPath);
  }
  return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) {
    return 0;
  }
  const auto setting = setting_of(data);
  const std::size_t cut = data[3] + std::size_t{1};
  const std::string_view body = text_of({data + 4, size - 4});
  const auto whole = decode(body, setting, body.size() + 4096);
  require(decode(body, setting, cut) == whole);
  for (const auto& message : whole.values) {
    if (!is_written(message, setting.peer)) {
      continue;
    }
    const auto again = encode(message, setting.peer);
    const auto back = decode(again, setting, again.size() + 4096);
    require(back.values.size() == 1 && back.values[0] == message);
  }
  return 0;
}
