#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <string_view>

namespace nixbuild::sandbox {

/// Unpacks gzip, xz, lzma, bzip2 or zstd (found out by content); plain bytes come back as they are.
/// Throws `code` naming `what` when the stream is broken or gives more than `limit` bytes.
[[nodiscard]] Bytes
decompress(ByteView packed, std::size_t limit, std::string_view code, std::string_view what);

/// The whole file, at most `limit` bytes. Errors: `code`.
[[nodiscard]] Bytes read_file(const char* path, std::size_t limit, std::string_view code);

} // namespace nixbuild::sandbox
