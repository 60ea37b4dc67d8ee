#include "sandbox/decompress.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

namespace nixbuild::sandbox {

namespace {

struct FreeArchive {
  void operator()(archive* reader) const noexcept { archive_read_free(reader); }
};

} // namespace

Bytes decompress(ByteView packed, std::size_t limit, std::string_view code, std::string_view what) {
  const std::unique_ptr<archive, FreeArchive> reader(archive_read_new());
  archive_read_support_filter_all(reader.get());
  archive_read_support_format_raw(reader.get());
  const auto check = [&](auto status) {
    if (status < ARCHIVE_WARN) {
      const char* reason = archive_error_string(reader.get());
      throw Error(Reaction::Reject,
                  code,
                  fmt::format("cannot unpack {}: {}", what, reason == nullptr ? "broken" : reason));
    }
  };
  check(archive_read_open_memory(reader.get(), packed.data(), packed.size()));
  archive_entry* entry = nullptr;
  check(archive_read_next_header(reader.get(), &entry));
  Bytes out;
  for (;;) {
    const std::size_t before = out.size();
    const std::size_t piece = std::max<std::size_t>(256 * kKiB, before / 2);
    out.resize(before + piece);
    const auto got = archive_read_data(reader.get(), out.data() + before, piece);
    check(got);
    out.resize(before + static_cast<std::size_t>(std::max<la_ssize_t>(got, 0)));
    if (out.size() > limit) {
      throw Error(
          Reaction::Reject, code, fmt::format("{} is larger than {} bytes unpacked", what, limit));
    }
    if (got <= 0) {
      return out;
    }
  }
}

Bytes read_file(const char* path, std::size_t limit, std::string_view code) {
  const UniqueFd fd(
      system_call(code, path, [&] { return ::open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY); }));
  Bytes out;
  for (;;) {
    const std::size_t before = out.size();
    const std::size_t piece = std::max<std::size_t>(64 * kKiB, before);
    out.resize(before + piece);
    const auto got =
        system_call(code, path, [&] { return ::read(fd.get(), out.data() + before, piece); });
    out.resize(before + static_cast<std::size_t>(got));
    if (got == 0) {
      out.shrink_to_fit();
      return out;
    }
    if (out.size() > limit) {
      throw Error(Reaction::Reject, code, fmt::format("{} is larger than {} bytes", path, limit));
    }
  }
}

} // namespace nixbuild::sandbox
