#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <string_view>

namespace nixbuild::test {

/// Feeds a reader in pieces of `cut` bytes, and calls `take` after each until it says that nothing
/// more can be taken.
template <class Reader, class Take>
void feed_pieces(Reader& reader, std::string_view stream, std::size_t cut, Take take) {
  while (!stream.empty()) {
    const auto piece = stream.substr(0, cut);
    reader.feed(bytes_of(piece));
    stream.remove_prefix(piece.size());
    while (take()) {
    }
  }
}

} // namespace nixbuild::test
