#include "sandbox/decompress.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/kernel.hpp>

#include <elf.h>
#include <fmt/format.h>
#include <lz4.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace nixbuild::sandbox {

namespace {

constexpr std::size_t kMaxKernel = 512 * kMiB;
constexpr std::uint32_t kLz4LegacyMagic = 0x184C2102;
constexpr std::size_t kLz4Block = 8 * kMiB;
constexpr std::uint32_t kPhysEntryNote = 18; // XEN_ELFNOTE_PHYS32_ENTRY

[[noreturn]] void bad_image(std::string message) {
  throw Error(Reaction::Reject, "sandbox.kernel-image", std::move(message));
}

template <class T>
T read_at(ByteView bytes, std::size_t offset) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) {
    bad_image(fmt::format("the kernel image ends before offset {}", offset));
  }
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Legacy LZ4 frames: magic, then blocks of `u32 size | data`, each 8 MiB when unpacked. The kernel
/// build appends the whole size as four bytes, which cannot be told from a block header otherwise
/// than by standing at the end.
Bytes unpack_lz4_legacy(ByteView payload) {
  Bytes out;
  std::size_t at = 4;
  while (payload.size() - at > 4) {
    const auto size = read_at<std::uint32_t>(payload, at);
    at += 4;
    if (size == kLz4LegacyMagic) {
      continue;
    }
    if (size > payload.size() - at) {
      bad_image(fmt::format(
          "LZ4 block of {} bytes exceeds the {} that follow", size, payload.size() - at));
    }
    const auto before = out.size();
    if (before + kLz4Block > kMaxKernel) {
      bad_image(fmt::format("kernel is larger than {} bytes", kMaxKernel));
    }
    out.resize(before + kLz4Block);
    const int produced = LZ4_decompress_safe(reinterpret_cast<const char*>(payload.data() + at),
                                             reinterpret_cast<char*>(out.data() + before),
                                             static_cast<int>(size),
                                             static_cast<int>(kLz4Block));
    if (produced < 0) {
      bad_image("broken LZ4 block in the kernel image");
    }
    out.resize(before + static_cast<std::size_t>(produced));
    at += size;
  }
  return out;
}

/// The compressed payload of a bzImage.
ByteView payload_of(ByteView image) {
  if (image.size() < 0x270 || std::memcmp(image.data() + 0x202, "HdrS", 4) != 0) {
    bad_image("not a Linux bzImage (no HdrS mark)");
  }
  if (read_at<std::uint16_t>(image, 0x206) < 0x208) {
    bad_image("boot protocol older than 2.08: no payload offset");
  }
  const std::size_t setup_sectors = image[0x1f1] == 0 ? 4U : image[0x1f1];
  const auto start = (setup_sectors + 1) * 512;
  const std::uint64_t offset = start + std::uint64_t{read_at<std::uint32_t>(image, 0x248)};
  const std::uint64_t length = read_at<std::uint32_t>(image, 0x24c);
  if (offset > image.size() || length > image.size() - offset || length < 16) {
    bad_image(fmt::format("payload of {} bytes at {} lies outside the image of {} bytes",
                          length,
                          offset,
                          image.size()));
  }
  return image.subspan(offset, length);
}

bool has_phys_entry(ByteView notes) noexcept {
  std::size_t at = 0;
  while (notes.size() - at >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    std::memcpy(&header, notes.data() + at, sizeof header);
    const auto name = at + sizeof header;
    const std::uint64_t padded_name = (std::uint64_t{header.n_namesz} + 3) & ~std::uint64_t{3};
    const std::uint64_t padded_desc = (std::uint64_t{header.n_descsz} + 3) & ~std::uint64_t{3};
    if (padded_name + padded_desc > notes.size() - name) {
      return false;
    }
    if (header.n_type == kPhysEntryNote && header.n_namesz == 4 &&
        std::memcmp(notes.data() + name, "Xen", 4) == 0) {
      return true;
    }
    at = name + padded_name + padded_desc;
  }
  return false;
}

} // namespace

bool is_pvh_elf(ByteView image) noexcept {
  Elf64_Ehdr header;
  if (image.size() < sizeof header) {
    return false;
  }
  std::memcpy(&header, image.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64 || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return false;
  }
  for (std::size_t i = 0; i < header.e_phnum; ++i) {
    const auto step = i * sizeof(Elf64_Phdr);
    if (header.e_phoff > image.size() ||
        image.size() - header.e_phoff < step + sizeof(Elf64_Phdr)) {
      return false;
    }
    Elf64_Phdr segment;
    std::memcpy(&segment, image.data() + header.e_phoff + step, sizeof segment);
    if (segment.p_type != PT_NOTE || segment.p_offset > image.size() ||
        segment.p_filesz > image.size() - segment.p_offset) {
      continue;
    }
    if (has_phys_entry(image.subspan(segment.p_offset, segment.p_filesz))) {
      return true;
    }
  }
  return false;
}

std::optional<Bytes> extract_kernel(ByteView image) {
  const auto payload = payload_of(image);
  const auto begins = [&](std::initializer_list<int> magic) {
    return std::equal(magic.begin(), magic.end(), payload.begin());
  };
  if (begins({0x02, 0x21, 0x4c, 0x18})) {
    return unpack_lz4_legacy(payload);
  }
  // All but gzip have their whole size appended by the kernel's build.
  const auto unsized = payload.first(payload.size() - 4);
  if (begins({0x1f, 0x8b})) {
    return decompress(payload, kMaxKernel, "sandbox.kernel-image", "kernel payload");
  }
  if (begins({0x28, 0xb5, 0x2f, 0xfd}) || begins({0xfd, '7', 'z', 'X', 'Z'}) ||
      begins({'B', 'Z', 'h'}) || begins({0x5d, 0x00, 0x00})) {
    return decompress(unsized, kMaxKernel, "sandbox.kernel-image", "kernel payload");
  }
  return std::nullopt;
}

std::string kernel_release(ByteView image) {
  if (image.size() < 0x270 || std::memcmp(image.data() + 0x202, "HdrS", 4) != 0) {
    return {};
  }
  const std::size_t offset = read_at<std::uint16_t>(image, 0x20e);
  if (offset == 0 || offset + 0x200 >= image.size()) {
    return {};
  }
  const auto text = text_of(image.subspan(offset + 0x200));
  const auto word = text.substr(0, std::min<std::size_t>(text.size(), 128));
  return std::string(word.substr(0, word.find_first_of(std::string_view(" \0", 2))));
}

} // namespace nixbuild::sandbox
