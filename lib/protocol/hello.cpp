#include "protocol/hello.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::protocol::wire {

bool HelloReader::magic(Receiver& receiver) {
  if (magic_taken_) {
    return true;
  }
  const auto word = receiver.peek_word();
  if (!word) {
    return false;
  }
  if (*word != magic_) {
    throw Error(Reaction::Reject,
                kind_.magic_code,
                fmt::format("the peer does not speak the {} protocol: it says {:#018x} instead "
                            "of {:#018x}",
                            kind_.protocol,
                            *word,
                            magic_));
  }
  receiver.consume(kWordBytes);
  magic_taken_ = true;
  return true;
}

std::optional<Version> HelloReader::version(Receiver& receiver) {
  if (agreed_ || !magic(receiver)) {
    return agreed_;
  }
  const auto word = receiver.peek_word();
  if (!word) {
    return std::nullopt;
  }
  if (*word < kind_.oldest.word() || *word > Version(kind_.oldest.major_number(), 0xff).word()) {
    throw Error(Reaction::Reject,
                kind_.version_code,
                fmt::format("the peer speaks {} version {}.{}, supported are {}.{} and later {}.x",
                            kind_.protocol,
                            *word >> 8,
                            *word & 0xff,
                            kind_.oldest.major_number(),
                            kind_.oldest.minor_number(),
                            kind_.oldest.major_number()));
  }
  receiver.consume(kWordBytes);
  const Version peer(static_cast<unsigned>(*word >> 8), static_cast<unsigned>(*word & 0xff));
  agreed_ = std::min(peer, own_);
  return agreed_;
}

} // namespace nixbuild::protocol::wire
