#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/sandbox/initramfs.hpp>

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <map>
#include <memory>
#include <string_view>

namespace nixbuild::sandbox {

namespace {

constexpr const char* kInitramfsCode = "sandbox.initramfs";

struct FreeWriter {
  void operator()(struct archive* writer) const noexcept { archive_write_free(writer); }
};

struct FreeEntry {
  void operator()(struct archive_entry* entry) const noexcept { archive_entry_free(entry); }
};

using Writer = std::unique_ptr<struct archive, FreeWriter>;

[[noreturn]] void refuse_initramfs(std::string message) {
  throw Error(Reaction::Reject, kInitramfsCode, std::move(message));
}

struct File {
  ByteView contents;
  mode_t mode = S_IFREG | 0444;
};

la_ssize_t append(struct archive*, void* out, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  auto& all = *static_cast<Bytes*>(out);
  all.insert(all.end(), bytes, bytes + size);
  return static_cast<la_ssize_t>(size);
}

void check(struct archive* writer, int result) {
  if (result < ARCHIVE_OK) {
    const char* text = archive_error_string(writer);
    throw Error(Reaction::Internal, kInitramfsCode, text == nullptr ? "libarchive failed" : text);
  }
}

void put(struct archive* writer, const std::string& path, const File& file) {
  const std::unique_ptr<struct archive_entry, FreeEntry> entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), path.c_str());
  archive_entry_set_mode(entry.get(), file.mode);
  archive_entry_set_mtime(entry.get(), 1, 0);
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(file.contents.size()));
  check(writer, archive_write_header(writer, entry.get()));
  if (!file.contents.empty() &&
      archive_write_data(writer, file.contents.data(), file.contents.size()) !=
          static_cast<la_ssize_t>(file.contents.size())) {
    check(writer, ARCHIVE_FATAL);
  }
}

} // namespace

Bytes build_initramfs(const InitramfsInputs& inputs) {
  if (inputs.guest.empty() || inputs.busybox.empty()) {
    refuse_initramfs("the guest program or the shell is empty");
  }
  const File folder{{}, S_IFDIR | 0755};
  // The map's order is the archive's: every folder before what is in it.
  std::map<std::string, File> files{
      {"bin", folder},
      {"bin/busybox", {inputs.busybox, S_IFREG | 0555}},
      {"dev", folder},
      {"init", {inputs.guest, S_IFREG | 0555}},
      {"modules", folder},
      {"proc", folder},
      {"run", folder},
      {"sys", folder},
  };
  if (!inputs.builtin.empty()) {
    files["bin/nixbuild-builtin"] = {inputs.builtin, S_IFREG | 0555};
  }
  std::string order;
  for (const auto& module : inputs.modules) {
    if (!nar::valid_name(module.file) || module.file.find('\n') != std::string::npos ||
        module.file == "order") {
      refuse_initramfs(fmt::format("'{}' is no name for a module's file", module.file));
    }
    if (!files.emplace("modules/" + module.file, File{module.contents}).second) {
      refuse_initramfs(fmt::format("module '{}' is given twice", module.file));
    }
    if (!module.on_demand) {
      order += module.file + "\n";
    }
  }
  files["modules/order"] = {bytes_of(order)};

  Bytes out;
  const Writer writer(archive_write_new());
  check(writer.get(), archive_write_set_format_cpio_newc(writer.get()));
  // The kernel wants no padding to tape blocks.
  check(writer.get(), archive_write_set_bytes_in_last_block(writer.get(), 1));
  check(writer.get(), archive_write_open(writer.get(), &out, nullptr, append, nullptr));
  for (const auto& [path, file] : files) {
    put(writer.get(), path, file);
  }
  check(writer.get(), archive_write_close(writer.get()));
  return out;
}

} // namespace nixbuild::sandbox
