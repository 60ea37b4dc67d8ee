#include "xz_sink.hpp"

#include "builtins.hpp"

#include <fmt/format.h>

namespace nixbuild::builtin {

namespace {

constexpr std::uint64_t kMemory = kGiB;
constexpr std::size_t kUnpackedPiece = 256 * kKiB;

} // namespace

XzSink::XzSink(ByteSink& out) : out_(out), piece_(kUnpackedPiece) {
  if (lzma_stream_decoder(&stream_, kMemory, LZMA_CONCATENATED) != LZMA_OK) {
    fail("xz cannot be decompressed: no memory");
  }
}

XzSink::~XzSink() {
  lzma_end(&stream_);
}

void XzSink::write(ByteView bytes) {
  stream_.next_in = bytes.data();
  stream_.avail_in = bytes.size();
  decode(LZMA_RUN);
}

void XzSink::finish() {
  decode(LZMA_FINISH);
  if (!ended_) {
    fail("the xz file is cut short");
  }
}

void XzSink::decode(lzma_action action) {
  bool full = true;
  while (!ended_ && (stream_.avail_in > 0 || full)) {
    stream_.next_out = piece_.data();
    stream_.avail_out = piece_.size();
    const auto result = lzma_code(&stream_, action);
    full = stream_.avail_out == 0;
    out_.write(ByteView(piece_).first(piece_.size() - stream_.avail_out));
    ended_ = result == LZMA_STREAM_END;
    if (result == LZMA_BUF_ERROR) {
      return; // more is needed
    }
    if (result != LZMA_OK && !ended_) {
      fail(fmt::format("the xz file is damaged (liblzma's error {})", static_cast<int>(result)));
    }
  }
}

} // namespace nixbuild::builtin
