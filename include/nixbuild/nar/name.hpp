#pragma once

#include <nixbuild/base/api.hpp>

#include <cstdint>
#include <string_view>

namespace nixbuild::nar {

/// True for what may be the name of a directory entry, whatever its length: not empty, not `.` or
/// `..`, without `/` and NUL. Source: protocol facts 4.1.
[[nodiscard]] NIXBUILD_API bool valid_name(std::string_view name) noexcept;

/// Zero bytes that follow `size` bytes of a string in a NAR: 0 to 7.
[[nodiscard]] constexpr std::uint64_t padding_of(std::uint64_t size) noexcept {
  return (8 - size % 8) % 8;
}

} // namespace nixbuild::nar
