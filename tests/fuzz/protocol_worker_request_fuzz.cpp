// A worker client's stream decodes to the same requests, payloads and error however it is cut; what
// was decoded encodes and decodes back to itself. Three bytes before the stream choose the minor
// version, the features, and the cut; the stream begins after the client's greeting.

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/worker.hpp>

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
constexpr std::uint64_t kPulledBytes = 64;

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

/// What a stream holds: requests, and the payload of each.
struct Requests {
  std::vector<worker::Request> values;
  std::vector<std::string> payloads;
  std::string code;

  bool operator==(const Requests&) const = default;
};

class Taker {
public:
  Taker(const worker::Peer& peer, Requests& out)
      : reader_(kDir, kLimits, peer.version, peer.features), out_(out) {}

  void feed(std::string_view bytes) {
    reader_.feed(bytes_of(bytes));
    while (take()) {
    }
  }

private:
  bool take() {
    if (!reader_.peer()) {
      return reader_.greeting().has_value();
    }
    switch (payload_) {
    case worker::Payload::Framed:
      return take_frame();
    case worker::Payload::Pulled:
      return take_pulled();
    case worker::Payload::Nar: // Only its parser knows the end: not parsed here.
      out_.payloads.back() += text_of(reader_.raw());
      reader_.consume_raw(reader_.raw().size());
      return false;
    case worker::Payload::None:
      break;
    }
    auto request = reader_.next();
    if (!request) {
      return false;
    }
    payload_ = worker::payload_of(*request, *reader_.peer());
    frames_ = FramedReader(kFrameLimit);
    out_.values.push_back(std::move(*request));
    out_.payloads.emplace_back();
    return true;
  }

  bool take_frame() {
    const auto piece = frames_.read(reader_.raw());
    require(piece.payload.size() <= piece.used);
    out_.payloads.back() += text_of(piece.payload);
    reader_.consume_raw(piece.used);
    if (frames_.finished()) {
      payload_ = worker::Payload::None;
      return true;
    }
    return piece.used > 0;
  }

  bool take_pulled() {
    const auto bytes = reader_.next_pulled(kPulledBytes);
    if (!bytes) {
      return false;
    }
    out_.payloads.back() += *bytes;
    if (bytes->empty()) {
      payload_ = worker::Payload::None;
    }
    return true;
  }

  worker::RequestReader reader_;
  Requests& out_;
  worker::Payload payload_ = worker::Payload::None;
  FramedReader frames_;
};

Requests decode(std::string_view stream, const worker::Peer& peer, std::size_t cut) {
  Requests out;
  Taker taker(peer, out);
  try {
    for (; !stream.empty(); stream.remove_prefix(std::min(cut, stream.size()))) {
      taker.feed(stream.substr(0, cut));
    }
  } catch (const Error& error) {
    require(error.reaction() == Reaction::Reject);
    out.code = error.code();
  }
  return out;
}

std::string greeting(const worker::Peer& peer) {
  std::string out;
  worker::write_client_hello(out, peer.version);
  worker::write_client_greeting(out, peer.version, peer.features);
  return out;
}

worker::Peer peer_of(std::uint8_t minor, std::uint8_t features) {
  worker::Peer out{Version(1, 18U + minor % 21U), {}};
  if (out.version >= Version{1, 38} && (features & 1U) != 0) {
    out.features.emplace(worker::kRealisationWithPath);
  }
  if (out.version >= Version{1, 38} && (features & 2U) != 0) {
    out.features.emplace(worker::kDeleteDeadSpecific);
  }
  return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) {
    return 0;
  }
  const auto peer = peer_of(data[0], data[1]);
  const std::size_t cut = data[2] + std::size_t{1};
  const std::string stream = greeting(peer) + std::string(text_of({data + 3, size - 3}));
  const auto whole = decode(stream, peer, stream.size());
  require(decode(stream, peer, cut) == whole);
  for (const auto& request : whole.values) {
    std::string again = greeting(peer);
    worker::write_request(again, kDir, peer, request);
    const auto back = decode(again, peer, again.size());
    require(back.values.size() == 1 && back.values[0] == request);
  }
  return 0;
}
