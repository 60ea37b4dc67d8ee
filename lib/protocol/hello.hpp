#pragma once

#include "protocol/receiver.hpp"

#include <nixbuild/protocol/wire.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

namespace nixbuild::protocol::wire {

/// What distinguishes the beginnings of protocols.
struct HelloKind {
  std::string_view protocol;
  std::string_view magic_code;   ///< the error of a wrong magic
  std::string_view version_code; ///< the error of a version that is not spoken
  Version oldest;
};

/// Reads the other side's magic and version. Source: protocol facts 2.1, 3.1.
class HelloReader {
public:
  HelloReader(const HelloKind& kind, std::uint64_t magic, Version own)
      : kind_(kind), magic_(magic), own_(own) {}

  /// Takes the magic when it is there. Error: the kind's `magic_code`.
  [[nodiscard]] bool magic(Receiver& receiver);
  /// The smaller of both versions when the whole hello is there. Error: the
  /// kind's `version_code`.
  [[nodiscard]] std::optional<Version> version(Receiver& receiver);

  [[nodiscard]] std::optional<Version> agreed() const noexcept { return agreed_; }

  /// The magic has been taken, the version not yet.
  [[nodiscard]] bool in_progress() const noexcept { return magic_taken_ && !agreed_; }

  /// For clients, which may decide on their version late.
  void set_own(Version own) noexcept { own_ = own; }

private:
  const HelloKind& kind_; ///< static
  std::uint64_t magic_;
  Version own_;
  bool magic_taken_ = false;
  std::optional<Version> agreed_;
};

} // namespace nixbuild::protocol::wire
