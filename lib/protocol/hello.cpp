#include "protocol/serve_hello.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::protocol::serve {

bool HelloReader::magic(wire::Receiver& receiver) {
  if (magic_taken_) {
    return true;
  }
  const auto word = receiver.peek_word();
  if (!word) {
    return false;
  }
  if (*word != magic_) {
    throw Error(Reaction::Reject,
                "serve.magic",
                fmt::format("the peer does not speak the serve protocol: it says {:#018x} instead "
                            "of {:#018x}",
                            *word,
                            magic_));
  }
  receiver.consume(wire::kWordBytes);
  magic_taken_ = true;
  return true;
}

std::optional<Version> HelloReader::version(wire::Receiver& receiver) {
  if (agreed_ || !magic(receiver)) {
    return agreed_;
  }
  const auto word = receiver.peek_word();
  if (!word) {
    return std::nullopt;
  }
  if (*word < kOldestVersion.word() ||
      *word > Version(kOldestVersion.major_number(), 0xff).word()) {
    throw Error(
        Reaction::Reject,
        "serve.version",
        fmt::format("the peer speaks serve version {}.{}, supported are {}.{} and later {}.x",
                    *word >> 8,
                    *word & 0xff,
                    kOldestVersion.major_number(),
                    kOldestVersion.minor_number(),
                    kOldestVersion.major_number()));
  }
  receiver.consume(wire::kWordBytes);
  const Version peer(static_cast<unsigned>(*word >> 8), static_cast<unsigned>(*word & 0xff));
  agreed_ = std::min(peer, own_);
  return agreed_;
}

void write_hello(std::string& out, Version version) {
  wire::append_word(out, kServerMagic);
  wire::append_word(out, version.word());
}

void write_client_hello(std::string& out, Version version) {
  wire::append_word(out, kClientMagic);
  wire::append_word(out, version.word());
}

} // namespace nixbuild::protocol::serve
