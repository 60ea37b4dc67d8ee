#include "builtins.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <utility>

namespace nixbuild::builtin {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPiece = 256 * 1024;

struct FreeReader {
  void operator()(struct archive* reader) const noexcept { archive_read_free(reader); }
};

struct FreeWriter {
  void operator()(struct archive* writer) const noexcept { archive_write_free(writer); }
};

void check(struct archive* part, int result, const std::string& source) {
  if (result < ARCHIVE_WARN) {
    const char* text = archive_error_string(part);
    fail(fmt::format("cannot unpack '{}': {}", source, text == nullptr ? "damaged" : text));
  }
}

/// Tar and zip, the compressions that sources come in; names are bytes.
std::unique_ptr<struct archive, FreeReader> open_archive(const std::string& source) {
  std::unique_ptr<struct archive, FreeReader> reader(archive_read_new());
  archive_read_support_format_tar(reader.get());
  archive_read_support_format_zip(reader.get());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_bzip2(reader.get());
  archive_read_support_filter_xz(reader.get());
  archive_read_support_filter_zstd(reader.get());
  archive_read_set_option(reader.get(), nullptr, "hdrcharset", "BINARY");
  check(reader.get(), archive_read_open_filename(reader.get(), source.c_str(), kPiece), source);
  return reader;
}

void copy_contents(struct archive* reader, struct archive* writer, const std::string& source) {
  for (;;) {
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int result = archive_read_data_block(reader, &data, &size, &offset);
    if (result == ARCHIVE_EOF) {
      return;
    }
    check(reader, result, source);
    const auto written = archive_write_data_block(writer, data, size, offset);
    check(writer, static_cast<int>(written < 0 ? written : 0), source);
  }
}

void unpack(const std::string& source, const std::string& folder) {
  const auto reader = open_archive(source);
  const std::unique_ptr<struct archive, FreeWriter> writer(archive_write_disk_new());
  archive_write_disk_set_options(writer.get(),
                                 ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT);
  struct archive_entry* entry = nullptr;
  for (;;) {
    const int result = archive_read_next_header(reader.get(), &entry);
    if (result == ARCHIVE_EOF) {
      break;
    }
    check(reader.get(), result, source);
    const char* path = archive_entry_pathname(entry);
    if (path == nullptr) {
      fail(fmt::format("cannot unpack '{}': an entry has no name", source));
    }
    archive_entry_set_pathname(entry, (folder + "/" + path).c_str());
    // Owners are not the archive's to choose, nor are bits beyond reading and executing.
    archive_entry_set_perm(entry, archive_entry_perm(entry) & 0777);
    if (const char* link = archive_entry_hardlink(entry); link != nullptr) {
      archive_entry_set_hardlink(entry, (folder + "/" + link).c_str());
    }
    check(writer.get(), archive_write_header(writer.get(), entry), source);
    copy_contents(reader.get(), writer.get(), source);
    check(writer.get(), archive_write_finish_entry(writer.get()), source);
  }
  check(writer.get(), archive_write_close(writer.get()), source);
}

} // namespace

void unpack_channel(const Call& call) {
  const auto& out = call.attribute("out");
  const auto& name = call.attribute("channelName");
  const auto& source = call.attribute("src");
  if (name.empty() || name.find('/') != std::string::npos || name == "." || name == "..") {
    fail(
        fmt::format("channelName is not allowed to contain filesystem separators, got '{}'", name));
  }
  fs::create_directories(out);
  unpack(source, out);
  const fs::directory_iterator entries(out);
  if (entries == end(entries) || std::distance(begin(entries), end(entries)) != 1) {
    fail(fmt::format("channel tarball '{}' contains not exactly one file", source));
  }
  const auto only = fs::directory_iterator(out)->path();
  fs::rename(only, fs::path(out) / name);
}

} // namespace nixbuild::builtin
