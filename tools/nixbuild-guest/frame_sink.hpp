#pragma once

#include <nixbuild/base/bytes.hpp>

#include <cstddef>

namespace nixbuild::guest {

/// Cuts a stream into the frames of the output port. Errors of the port: `guest.system`.
class FrameSink final : public ByteSink {
public:
  explicit FrameSink(int port);

  /// Gathers small pieces.
  void write(ByteView bytes) override;
  /// Sends what was gathered.
  void flush();
  /// Sends the rest, and the end.
  void finish();

private:
  void write_direct(ByteView bytes);
  void send_frame(std::size_t length);

  int port_;
  Bytes frame_;
};

} // namespace nixbuild::guest
