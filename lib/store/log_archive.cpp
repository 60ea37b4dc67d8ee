#include "log_archive.hpp"

#include "disk_call.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <memory>

namespace nixbuild::store {

namespace {

constexpr std::uint32_t kSkippableMagic = 0x184D2A5E;
constexpr std::uint32_t kSeekableMagic = 0x8F92EAB1;
constexpr std::size_t kHeaderBytes = 8;
constexpr std::size_t kEntryBytes = 8;
constexpr std::size_t kFooterBytes = 9;
constexpr int kLevel = 3;

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const noexcept { ZSTD_freeCCtx(context); }
};

[[noreturn]] void throw_corrupt(std::string_view what) {
  throw Error(Reaction::Corrupt, "log.corrupt", fmt::format("compressed log: {}", what));
}

std::size_t checked(std::size_t result) {
  if (ZSTD_isError(result) != 0) {
    throw_corrupt(ZSTD_getErrorName(result));
  }
  return result;
}

void put_u32(Bytes& out, std::uint64_t value) {
  for (unsigned shift = 0; shift < 32; shift += 8) {
    out.push_back(static_cast<std::uint8_t>(value >> shift));
  }
}

std::uint32_t get_u32(ByteView bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < 4; ++i) {
    value |= std::uint32_t{bytes[at + i]} << (8 * i);
  }
  return value;
}

std::size_t read_some(int fd, std::uint64_t offset, MutableBytes into) {
  std::size_t filled = 0;
  while (filled < into.size()) {
    const auto count = disk_call("reading a log", [&] {
      return ::pread(
          fd, into.data() + filled, into.size() - filled, static_cast<off_t>(offset + filled));
    });
    if (count == 0) {
      break;
    }
    filled += static_cast<std::size_t>(count);
  }
  return filled;
}

} // namespace

void write_log_archive(int plain, int archive) {
  const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  Bytes text(kLogFrame);
  Bytes frame(ZSTD_compressBound(kLogFrame));
  Bytes table;
  std::uint64_t offset = 0;
  std::uint64_t frames = 0;
  for (;;) {
    const auto count = read_some(plain, offset, text);
    if (count == 0) {
      break;
    }
    const auto size = checked(
        ZSTD_compressCCtx(context.get(), frame.data(), frame.size(), text.data(), count, kLevel));
    write_all(archive, ByteView(frame).first(size), "writing a compressed log");
    put_u32(table, size);
    put_u32(table, count);
    offset += count;
    ++frames;
  }
  Bytes tail;
  put_u32(tail, kSkippableMagic);
  put_u32(tail, table.size() + kFooterBytes);
  tail.insert(tail.end(), table.begin(), table.end());
  put_u32(tail, frames);
  tail.push_back(0);
  put_u32(tail, kSeekableMagic);
  write_all(archive, tail, "writing a compressed log");
}

std::string read_log_archive(int archive, std::uint64_t offset, std::size_t limit) {
  const auto size = size_of(archive, "looking at a compressed log");
  std::array<std::uint8_t, kFooterBytes> footer{};
  if (size < kHeaderBytes + kFooterBytes) {
    throw_corrupt("too short");
  }
  read_exactly_at(archive, size - kFooterBytes, footer, "reading a compressed log");
  const std::uint64_t table_bytes = std::uint64_t{get_u32(footer, 0)} * kEntryBytes;
  if (get_u32(footer, 5) != kSeekableMagic || table_bytes > size - kHeaderBytes - kFooterBytes) {
    throw_corrupt("no seek table");
  }
  Bytes table(static_cast<std::size_t>(table_bytes));
  read_exactly_at(archive, size - kFooterBytes - table_bytes, table, "reading a compressed log");
  std::uint64_t frame_at = 0;
  std::uint64_t text_at = 0;
  for (std::size_t entry = 0; entry < table.size(); entry += kEntryBytes) {
    const std::uint64_t frame_bytes = get_u32(table, entry);
    const std::uint64_t text_bytes = get_u32(table, entry + 4);
    if (offset < text_at + text_bytes) {
      if (text_bytes > kLogFrame || frame_bytes > ZSTD_compressBound(kLogFrame)) {
        throw_corrupt("a frame beyond the limit of 256 KiB");
      }
      Bytes frame(static_cast<std::size_t>(frame_bytes));
      read_exactly_at(archive, frame_at, frame, "reading a compressed log");
      std::string text(static_cast<std::size_t>(text_bytes), '\0');
      if (checked(ZSTD_decompress(text.data(), text.size(), frame.data(), frame.size())) !=
          text.size()) {
        throw_corrupt("a frame of another size than the seek table says");
      }
      return text.substr(static_cast<std::size_t>(offset - text_at), limit);
    }
    frame_at += frame_bytes;
    text_at += text_bytes;
  }
  return {};
}

} // namespace nixbuild::store
