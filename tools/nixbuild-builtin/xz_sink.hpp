#pragma once

#include <nixbuild/base/bytes.hpp>

#include <lzma.h>

namespace nixbuild::builtin {

/// Decompresses xz on its way to another sink. Memory: 1 GiB at most for the dictionary. Error
/// `builtin.failed` for what is no xz or is cut short.
class XzSink final : public ByteSink {
public:
  /// `out` outlives the object.
  explicit XzSink(ByteSink& out);
  ~XzSink() override;
  XzSink(const XzSink&) = delete;
  XzSink& operator=(const XzSink&) = delete;

  void write(ByteView bytes) override;
  /// All of it has been written.
  void finish();

private:
  void decode(lzma_action action);

  ByteSink& out_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  Bytes piece_;
  bool ended_ = false;
};

} // namespace nixbuild::builtin
