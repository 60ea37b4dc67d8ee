#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nixbuild::protocol {

/// Limits of everything a peer can send outside NARs. Source: protocol facts 1.
struct Limits {
  std::size_t string_bytes = 64 * 1024 * 1024;
  std::size_t elements = 1'000'000;               ///< of one list or map
  std::size_t message_bytes = 1024 * 1024 * 1024; ///< of one request or reply without its NAR
};

/// What a peer must be allowed to do before an operation is answered; each operation's row has one.
enum class Permission : std::uint8_t {
  StoreRead,    ///< ask about paths and take their contents
  StoreWrite,   ///< add paths, signatures, roots
  BuildRead,    ///< look at builds and their logs
  BuildWrite,   ///< have something built
  AccountWrite, ///< collect garbage, verify, optimise: what concerns a whole store
};

/// `StoreRead`, …
[[nodiscard]] NIXBUILD_API std::string_view name_of(Permission permission) noexcept;

/// A protocol version as it stands in one 64-bit word: major * 256 + minor.
class Version {
public:
  constexpr explicit Version(unsigned major_number, unsigned minor_number) noexcept
      : word_((major_number << 8) | (minor_number & 0xff)) {}

  [[nodiscard]] constexpr unsigned major_number() const noexcept { return word_ >> 8; }

  [[nodiscard]] constexpr unsigned minor_number() const noexcept { return word_ & 0xff; }

  [[nodiscard]] constexpr std::uint64_t word() const noexcept { return word_; }

  auto operator<=>(const Version&) const = default;

private:
  unsigned word_;
};

} // namespace nixbuild::protocol
