// The stream between daemon and runner: whatever is accepted encodes to what was read, pieces give
// the same as the whole, nothing waits in the decoder that was not fed, and bad bytes are an Error.

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

struct Outcome {
  std::vector<runner::Message> messages;
  bool refused = false;
};

Outcome read_all(ByteView bytes, std::size_t step) {
  Outcome outcome;
  runner::Decoder decoder;
  try {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(step, bytes.size()));
      bytes = bytes.subspan(piece.size());
      decoder.feed(piece);
      while (auto message = decoder.next()) {
        outcome.messages.push_back(std::move(*message));
      }
    }
  } catch (const Error& error) {
    if (error.code() != "sandbox.runner-protocol") {
      std::abort();
    }
    outcome.refused = true;
  }
  return outcome;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView bytes(data, size);
  const auto whole = read_all(bytes, std::max<std::size_t>(size, 1));
  const auto pieces = read_all(bytes, 7);
  if (whole.refused != pieces.refused || whole.messages != pieces.messages) {
    std::abort();
  }
  std::string again;
  for (const auto& message : whole.messages) {
    again += runner::encode(message);
  }
  if (again.size() > size || !std::equal(again.begin(), again.end(), text_of(bytes).begin())) {
    std::abort();
  }
  return 0;
}
