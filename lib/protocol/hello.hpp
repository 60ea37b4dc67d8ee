#pragma once

#include "protocol/receiver.hpp"

#include <nixbuild/protocol/wire.hpp>

#include <cstdint>
#include <optional>

namespace nixbuild::protocol::serve {

/// Reads the other side's magic and version. Source: protocol facts 2.1.
class HelloReader {
public:
  HelloReader(std::uint64_t magic, Version own) : magic_(magic), own_(own) {}

  /// Takes the magic when it is there. Error `serve.magic`.
  [[nodiscard]] bool magic(wire::Receiver& receiver);
  /// The smaller of both versions when the whole hello is there. Error `serve.version`.
  [[nodiscard]] std::optional<Version> version(wire::Receiver& receiver);

  [[nodiscard]] std::optional<Version> agreed() const noexcept { return agreed_; }

  /// The magic has been taken, the version not yet.
  [[nodiscard]] bool in_progress() const noexcept { return magic_taken_ && !agreed_; }

  /// For clients, which may decide on their version late.
  void set_own(Version own) noexcept { own_ = own; }

private:
  std::uint64_t magic_;
  Version own_;
  bool magic_taken_ = false;
  std::optional<Version> agreed_;
};

} // namespace nixbuild::protocol::serve
