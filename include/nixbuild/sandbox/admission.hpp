#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <string>
#include <string_view>

/// How store paths come into a machine whose builder runs: what is said on channel 0 of its store
/// port. No I/O. All integers little-endian.
///
///     host                                        guest
///     u32 length  name of the path             →            1 to 255 bytes
///     (u32 length, 1 to 1 MiB  bytes)* u32 0   →            its NAR, as an output's
///                                              ←  u32 length  why it was not taken; 0: it is there
///
/// One path at a time: the next one is sent when the answer has come.
namespace nixbuild::sandbox::admission {

inline constexpr std::size_t kMaxName = 255;
inline constexpr std::size_t kMaxPiece = 1 * kMiB;
/// Bytes of an answer.
inline constexpr std::size_t kMaxAnswer = 16 * kKiB;

/// A length and what it counts, as names, pieces and answers stand in the stream.
[[nodiscard]] NIXBUILD_API std::string counted(std::string_view bytes);
/// The four bytes of a length alone: before a piece, and 0 behind the last one.
[[nodiscard]] NIXBUILD_API std::string length_of(std::size_t length);
/// The number in those four bytes. Error `sandbox.protocol` beyond `limit`.
[[nodiscard]] NIXBUILD_API std::size_t read_length(ByteView four, std::size_t limit);

} // namespace nixbuild::sandbox::admission
