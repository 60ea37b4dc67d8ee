#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/kernel.hpp>

#include <archive.h>
#include <archive_entry.h>
#include <catch2/catch.hpp>
#include <lz4.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using nixbuild::tests::ScratchFolder;
namespace fs = std::filesystem;

namespace {

void write_text(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

template <class T>
void put(std::string& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// A bzImage with this payload behind one setup sector.
std::string bz_image(std::string_view payload) {
  std::string image(1024, '\0');
  image[0x1f1] = 1;
  std::memcpy(image.data() + 0x202, "HdrS", 4);
  put(image, 0x206, std::uint16_t{0x20f});
  put(image, 0x20e, std::uint16_t{0x100});
  std::memcpy(image.data() + 0x300, "6.1.0-test (builder) #1", 24);
  put(image, 0x248, std::uint32_t{0});
  put(image, 0x24c, static_cast<std::uint32_t>(payload.size()));
  return image + std::string(payload);
}

/// A small ELF with a PVH note.
std::string pvh_elf() {
  std::string elf(64 + 56 + 24, '\0');
  std::memcpy(elf.data(),
              "\x7f"
              "ELF\x02\x01\x01",
              7);
  put(elf, 18, std::uint16_t{62}); // x86-64
  put(elf, 32, std::uint64_t{64}); // program headers
  put(elf, 54, std::uint16_t{56});
  put(elf, 56, std::uint16_t{1});
  put(elf, 64, std::uint32_t{4}); // PT_NOTE
  put(elf, 64 + 8, std::uint64_t{120});
  put(elf, 64 + 32, std::uint64_t{24});
  put(elf, 120, std::uint32_t{4});
  put(elf, 124, std::uint32_t{8});
  put(elf, 128, std::uint32_t{18});
  std::memcpy(elf.data() + 132, "Xen", 4);
  return elf;
}

std::string packed(const std::string& text, int (*add_filter)(archive*)) {
  std::string out(text.size() + 65536, '\0');
  std::size_t used = 0;
  archive* writer = archive_write_new();
  archive_write_set_format_raw(writer);
  add_filter(writer);
  archive_write_set_bytes_in_last_block(writer, 1);
  archive_write_open_memory(writer, out.data(), out.size(), &used);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(writer, entry);
  archive_write_data(writer, text.data(), text.size());
  archive_entry_free(entry);
  archive_write_close(writer);
  archive_write_free(writer);
  return out.substr(0, used);
}

std::string legacy_lz4(const std::string& text) {
  std::string out("\x02\x21\x4c\x18", 4);
  std::string block(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(text.size()))),
                    '\0');
  const int size = LZ4_compress_default(
      text.data(), block.data(), static_cast<int>(text.size()), static_cast<int>(block.size()));
  std::string length(4, '\0');
  put(length, 0, static_cast<std::uint32_t>(size));
  return out + length + block.substr(0, static_cast<std::size_t>(size));
}

std::string with_size(std::string bytes, std::size_t size) {
  std::string tail(4, '\0');
  put(tail, 0, static_cast<std::uint32_t>(size));
  return bytes + tail;
}

std::string code_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

/// A root with two kernels, and modules without compression.
void make_root(const fs::path& root) {
  write_text(root / "boot/vmlinuz-6.1.0-9", bz_image(with_size(legacy_lz4(pvh_elf()), 144)));
  write_text(root / "boot/vmlinuz-6.1.0-10", bz_image(with_size(legacy_lz4(pvh_elf()), 144)));
  write_text(root / "boot/vmlinuz-7.0.0", "has no modules");
  for (const auto* version : {"6.1.0-9", "6.1.0-10"}) {
    const auto modules = root / "lib/modules" / version;
    write_text(modules / "modules.builtin",
               "kernel/fs/overlay.ko\nkernel/drivers/virtio-ring.ko\n");
    write_text(modules / "modules.dep",
               "kernel/a/virtio.ko:\n"
               "kernel/a/virtio_pci.ko: kernel/a/virtio_pci_modern_dev.ko kernel/a/virtio.ko\n"
               "kernel/a/virtio_pci_modern_dev.ko:\n"
               "kernel/b/virtio_blk.ko: kernel/a/virtio.ko\n"
               "kernel/b/virtio_console.ko: kernel/a/virtio.ko\n"
               "kernel/b/erofs.ko: kernel/b/crc-deep.ko\n"
               "kernel/b/crc-deep.ko:\n"
               "kernel/c/sctp.ko: kernel/c/udp-tunnel.ko kernel/b/crc-deep.ko\n"
               "kernel/c/udp-tunnel.ko:\n");
    for (const auto* file : {"a/virtio.ko",
                             "a/virtio_pci.ko",
                             "a/virtio_pci_modern_dev.ko",
                             "b/virtio_blk.ko",
                             "b/virtio_console.ko",
                             "b/erofs.ko",
                             "b/crc-deep.ko",
                             "c/sctp.ko",
                             "c/udp-tunnel.ko"}) {
      write_text(modules / "kernel" / file, std::string("module ") + file);
    }
  }
}

std::vector<std::string> names(const auto& modules) {
  std::vector<std::string> result;
  for (const auto& module : modules) {
    result.push_back(module.name);
  }
  return result;
}

} // namespace

TEST_CASE("kernel image: every payload format gives the ELF back", "[sandbox]") {
  const auto elf = pvh_elf();
  const auto size = elf.size();
  const auto check = [&](const std::string& payload) {
    const auto image = bz_image(payload);
    const auto out = extract_kernel(bytes_of(image));
    REQUIRE(out);
    CHECK((text_of(*out) == elf));
    CHECK(is_pvh_elf(*out));
    CHECK(kernel_release(bytes_of(image)) == "6.1.0-test");
  };
  check(packed(elf, archive_write_add_filter_gzip));
  check(with_size(packed(elf, archive_write_add_filter_xz), size));
  check(with_size(packed(elf, archive_write_add_filter_bzip2), size));
  check(with_size(packed(elf, archive_write_add_filter_zstd), size));
  check(with_size(legacy_lz4(elf), size));
  const auto unknown = bz_image(std::string(100, 'u'));
  CHECK_FALSE(extract_kernel(bytes_of(unknown)));
}

TEST_CASE("kernel image: broken images are refused", "[sandbox][reject]") {
  const auto refuse = [](const std::string& image) {
    CHECK(code_of([&] { (void)extract_kernel(bytes_of(image)); }) == "sandbox.kernel-image");
  };
  refuse("");
  refuse(std::string(4096, 'x'));
  auto outside = bz_image(std::string(100, 'p'));
  put(outside, 0x248, std::uint32_t{0xffffff00});
  refuse(outside);
  auto old = bz_image(std::string(100, 'p'));
  put(old, 0x206, std::uint16_t{0x207});
  refuse(old);
  auto block = legacy_lz4(pvh_elf());
  put(block, 4, std::uint32_t{0x00ffffff});
  refuse(bz_image(with_size(block, 144)));
  refuse(bz_image(packed(pvh_elf(), archive_write_add_filter_gzip).substr(0, 40)));
  refuse(bz_image(std::string("\x02\x21\x4c\x18\x20\x00\x00\x00", 8) + std::string(40, '\xff')));
}

TEST_CASE("kernel image: only an ELF with a PVH entry is started as one", "[sandbox]") {
  auto elf = pvh_elf();
  CHECK(is_pvh_elf(bytes_of(elf)));
  for (std::size_t size = 0; size < elf.size(); ++size) {
    CHECK_FALSE(is_pvh_elf(bytes_of(std::string_view(elf).substr(0, size))));
  }
  elf[128] = 17;
  CHECK_FALSE(is_pvh_elf(bytes_of(elf)));
}

TEST_CASE("kernel modules: dependencies come first, built-in ones not at all", "[sandbox]") {
  const ScratchFolder folder;
  make_root(folder.path());
  const std::array<std::string_view, 5> wanted{
      "virtio_ring", "virtio_pci", "erofs", "overlay", "not_there"};
  const std::array<std::string_view, 1> optional{"not_there"};
  const auto modules = folder.path() / "lib/modules/6.1.0-9";
  CHECK(names(module_load_order(modules, wanted, optional)) ==
        std::vector<std::string>{
            "virtio", "virtio_pci_modern_dev", "virtio_pci", "crc_deep", "erofs"});
  CHECK(code_of([&] { (void)module_load_order(modules, wanted, {}); }) == "sandbox.kernel-module");
}

namespace {

/// A module as a linker leaves it, as far as anybody here reads it.
std::string module_with(const std::string& info) {
  std::string text("ELF\0", 4);
  for (const char c : info) {
    text += c == '|' ? '\0' : c;
  }
  return text + std::string("\0vermagic=6.1\0", 14);
}

/// EROFS needs a checksum by name only, as in the kernel that Debian installs on hardware.
void make_soft_modules(const fs::path& modules) {
  write_text(modules / "modules.builtin", "kernel/fs/overlay.ko\n");
  const std::pair<const char*, const char*> files[] = {
      {"kernel/fs/erofs.ko", "depends=libcrc32c"},
      {"kernel/lib/libcrc32c.ko", "depends=|softdep=lost pre: crc32c platform:none post: speed-up"},
      {"kernel/lib/speed-up.ko", "depends="},
      {"kernel/crypto/crc32c_generic.ko",
       "alias=crypto-crc32c-generic|alias=crypto-crc32c|alias=crc32c|depends="},
      {"kernel/arch/x86/crypto/crc32c-intel.ko", "alias=crc32c|depends=broken"},
      {"kernel/fs/misplaced.ko", "alias=crc32c|depends="},
      {"kernel/fs/ext4.ko", "softdep=pre: crypto-crc32c|depends="},
  };
  for (const auto& [file, info] : files) {
    write_text(modules / file, module_with(info));
  }
}

void index_soft_modules(const fs::path& modules) {
  write_text(modules / "modules.dep",
             "kernel/fs/erofs.ko: kernel/lib/libcrc32c.ko\n"
             "kernel/lib/libcrc32c.ko:\n"
             "kernel/lib/speed-up.ko:\n"
             "kernel/crypto/crc32c_generic.ko:\n"
             "kernel/arch/x86/crypto/crc32c-intel.ko: kernel/arch/x86/crypto/broken.ko\n"
             "kernel/crypto/crc32c_gone.ko:\n"
             "kernel/fs/ext4.ko:\n");
  write_text(modules / "modules.softdep",
             "# Soft dependencies extracted from modules themselves.\n"
             "softdep libcrc32c lost pre: crc32c platform:none post: speed-up\n"
             "softdep ext4 pre: crypto-crc32c\n");
  write_text(modules / "modules.alias",
             "# Aliases extracted from modules themselves.\n"
             "alias virtio:d00000001v* virtio_net\n"
             "alias crc32c crc32c_intel\n"
             "alias crc32c crc32c_gone\n"
             "alias crc32c crc32c_generic\n"
             "alias crypto-crc32c crc32c_generic\n");
}

} // namespace

TEST_CASE("kernel modules: what a module asks for by name only comes along", "[sandbox]") {
  const ScratchFolder folder;
  const auto modules = folder.path() / "lib/modules/6.1.0-soft";
  make_soft_modules(modules);
  for (const bool indexed : {false, true}) {
    INFO("indexed " << indexed);
    if (indexed) {
      index_soft_modules(modules);
    }
    const auto order = [&](std::string_view wanted) {
      return names(module_load_order(modules, std::span(&wanted, 1), {}));
    };
    // Those whose own needs or files are not there are left out, not the whole kernel.
    CHECK(order("erofs") ==
          std::vector<std::string>{"crc32c_generic", "libcrc32c", "speed_up", "erofs"});
    CHECK(order("ext4") == std::vector<std::string>{"crc32c_generic", "ext4"});
  }
  // Built in, under its own name or as one that offers the algorithm, nothing is to be loaded.
  write_text(modules / "modules.builtin.modinfo",
             std::string("crc32c_generic.license=GPL\0crc32c_generic.alias=crc32c\0", 55));
  const std::string_view erofs = "erofs";
  CHECK(names(module_load_order(modules, std::span(&erofs, 1), {})) ==
        std::vector<std::string>{"libcrc32c", "speed_up", "erofs"});
}

TEST_CASE("kernel cache: the newest kernel is imported once and found again", "[sandbox]") {
  const ScratchFolder folder;
  make_root(folder.path());
  const auto source = newest_kernel(folder.path());
  CHECK(source.version == "6.1.0-10");
  const auto cache = folder.path() / "cache";
  const auto first = find_or_import_kernel(cache, source);
  CHECK(first.elf);
  CHECK(first.version == "6.1.0-10");
  CHECK(fs::file_size(first.image) == pvh_elf().size());
  CHECK(names(first.modules) == std::vector<std::string>{"virtio",
                                                         "virtio_pci_modern_dev",
                                                         "virtio_pci",
                                                         "virtio_blk",
                                                         "virtio_console",
                                                         "crc_deep",
                                                         "erofs",
                                                         "udp_tunnel",
                                                         "sctp"});
  CHECK(fs::file_size(first.modules.back().file) == std::strlen("module c/sctp.ko"));
  const auto later = [](const ImportedKernel& kernel) {
    std::vector<std::string> found;
    for (const auto& module : kernel.modules) {
      if (module.on_demand) {
        found.push_back(module.name);
      }
    }
    return found;
  };
  CHECK(later(first) == std::vector<std::string>{"udp_tunnel", "sctp"});

  const auto again = find_or_import_kernel(cache, source);
  CHECK(again.directory == first.directory);
  CHECK(again.image_sha256 == first.image_sha256);
  CHECK(names(again.modules) == names(first.modules));
  CHECK(later(again) == later(first));

  // A changed source is imported anew.
  write_text(source.image, bz_image(packed(pvh_elf(), archive_write_add_filter_gzip)) + "x");
  CHECK(find_or_import_kernel(cache, source).directory != first.directory);
  CHECK(std::distance(fs::directory_iterator(cache), {}) == 2);
}

TEST_CASE("kernel cache: what the operator said comes before what lies about", "[sandbox]") {
  const ScratchFolder folder;
  make_root(folder.path());
  const auto cache = folder.path() / "cache";
  const auto choose = [&](const std::optional<KernelSource>& configured = std::nullopt) {
    return choose_kernel(cache, configured, folder.path());
  };
  const auto source_of = [&](const char* version) {
    return KernelSource{folder.path() / "boot" / (std::string("vmlinuz-") + version),
                        folder.path() / "lib/modules" / version,
                        version};
  };
  CHECK(choose().why == KernelChoice::Why::Found);
  CHECK(choose().source->version == "6.1.0-10");
  CHECK_FALSE(choose().cached);

  // That the newest was taken over by itself makes it no kernel of the operator's.
  (void)import_kernel(cache, source_of("6.1.0-10"));
  CHECK(choose().why == KernelChoice::Why::Found);
  CHECK(choose().cached);

  const auto older = import_kernel(cache, source_of("6.1.0-9"), KernelOrigin::ImportedByHand);
  CHECK(choose().why == KernelChoice::Why::Imported);
  CHECK(choose().cached->version == "6.1.0-9");
  CHECK(choose().cached->source == source_of("6.1.0-9").image);
  CHECK(choose(source_of("6.1.0-10")).why == KernelChoice::Why::Configured);
  CHECK(choose(source_of("6.1.0-10")).cached->version == "6.1.0-10");

  // The last word counts, not the highest number.
  const auto newer = import_kernel(cache, source_of("6.1.0-10"), KernelOrigin::ImportedByHand);
  CHECK(choose().cached->directory == newer.directory);
  fs::last_write_time(newer.directory / "manifest.json",
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  (void)import_kernel(cache, source_of("6.1.0-9"), KernelOrigin::ImportedByHand);
  CHECK(choose().cached->directory == older.directory);
  CHECK(cached_kernels(cache).size() == 3);

  forget_kernel(older);
  CHECK(choose().cached->directory == newer.directory);
  forget_kernel(newer);
  CHECK(choose().why == KernelChoice::Why::Found);
  fs::remove_all(folder.path() / "boot");
  CHECK(choose().why == KernelChoice::Why::TakenOver);
  CHECK(choose().cached->version == "6.1.0-10");
}

TEST_CASE("kernel cache: what is missing is named", "[sandbox][reject]") {
  const ScratchFolder folder;
  CHECK(code_of([&] { (void)newest_kernel(folder.path()); }) == "sandbox.kernel-none");
  make_root(folder.path());
  if (::geteuid() != 0) {
    fs::permissions(folder.path() / "boot/vmlinuz-6.1.0-10", fs::perms::none);
    CHECK(code_of([&] { (void)newest_kernel(folder.path()); }) == "sandbox.kernel-unreadable");
  }
  fs::remove(folder.path() / "lib/modules/6.1.0-9/kernel/b/erofs.ko");
  const KernelSource broken{
      folder.path() / "boot/vmlinuz-6.1.0-9", folder.path() / "lib/modules/6.1.0-9", ""};
  CHECK(code_of([&] { import_kernel(folder.path() / "cache", broken); }) ==
        "sandbox.kernel-module");
  CHECK(fs::is_empty(folder.path() / "cache"));
}

TEST_CASE("kernel cache: a distribution's kernel is imported as an ELF", "[sandbox][slow]") {
  const char* root = std::getenv("NIXBUILD_TEST_KERNEL_DIR");
  if (root == nullptr) {
    WARN("skipped: NIXBUILD_TEST_KERNEL_DIR is not set");
    return;
  }
  const ScratchFolder folder;
  const auto kernel = import_kernel(folder.path(), newest_kernel(root));
  CHECK(kernel.elf);
  CHECK(fs::file_size(kernel.image) > 8 * kMiB);
  const auto all = names(kernel.modules);
  CHECK_FALSE(all.empty());
}
