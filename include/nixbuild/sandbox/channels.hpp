#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

namespace nixbuild::sandbox {

/// Several two-way byte streams over one, as the port `nixbuild.nix` of a machine with a store
/// socket carries them. No I/O: bytes in, bytes out. Not thread safe.
///
///     frame   := u8 kind  u8 channel  u16 0  u32 value  bytes        (little-endian)
///
///     Open    value 0; the sender's next frames of this channel belong to a new stream
///     Data    value: how many bytes follow, 1 to kMaxData
///     Credit  value: so many bytes more may be sent to the sender of this
///     End     value 0; the sender neither sends nor takes anything more, and says nothing more of
///             this stream; it is over when both have said so
///
/// Each side may have sent kWindow bytes that the other has not taken, so that nobody holds more
/// than that of a stream whose reader is slow, and no stream waits for another one's reader.
/// Channel 0 is opened by the host, once; all others by the guest, any number of times.
class NIXBUILD_API Channels {
public:
  enum class Side : std::uint8_t { Host, Guest };

  static constexpr std::size_t kMost = 16;
  static constexpr std::size_t kWindow = 256 * kKiB;
  static constexpr std::size_t kMaxData = 32 * kKiB;
  static constexpr std::size_t kHeaderBytes = 8;

  explicit Channels(Side side) : side_(side) {}

  /// Takes what came from the other side, in any cut. Errors: `sandbox.channels` (unknown kind,
  /// channel out of range or not open, more data than the window, more credit than it, anything
  /// behind the end). After an error the object is dead.
  void feed(ByteView bytes);
  /// A stream that the other side has opened; each is told of once.
  [[nodiscard]] std::optional<unsigned> next_opened();

  /// Opens a stream: channel 0 for the host, the first free one for the guest; nothing where there
  /// is none.
  [[nodiscard]] std::optional<unsigned> open();

  /// How many bytes may be sent now; 0 for a stream that is not open or that a side has ended.
  [[nodiscard]] std::size_t room(unsigned channel) const noexcept;
  /// At most room() bytes.
  void send(unsigned channel, ByteView bytes);
  /// Nothing more will be sent or taken: what has come is dropped. A second time nothing happens.
  void end(unsigned channel);

  /// What has come and not been taken.
  [[nodiscard]] std::string_view incoming(unsigned channel) const noexcept;
  void take(unsigned channel, std::size_t bytes);
  /// The other side has ended the stream, and all of it has been taken: time to end it here.
  [[nodiscard]] bool drained(unsigned channel) const noexcept;
  /// Opened, and not ended by both.
  [[nodiscard]] bool in_use(unsigned channel) const noexcept;

  /// Bytes for the other side; the caller erases what it has sent. Data is bounded by all windows
  /// together, its frames and the short ones are not: who does not send any more stops feeding.
  [[nodiscard]] std::string& outgoing() noexcept { return outgoing_; }

  [[nodiscard]] const std::string& outgoing() const noexcept { return outgoing_; }

private:
  struct Stream {
    bool open = false;
    bool ended_here = false;
    bool ended_there = false;
    std::size_t credit = 0;    ///< that we may send
    std::size_t allowance = 0; ///< that the other side may send
    std::size_t owed = 0;      ///< taken, and not told of
    std::string incoming;
    std::size_t taken = 0; ///< of `incoming`
  };

  std::size_t accept(ByteView bytes);
  void put(std::uint8_t kind, unsigned channel, std::size_t value, ByteView bytes = {});
  void begin(unsigned channel);
  static void finish(Stream& stream) noexcept;

  Side side_;
  std::array<Stream, kMost> streams_;
  std::deque<unsigned> opened_;
  std::string pending_; ///< the beginning of a frame
  std::string outgoing_;
};

} // namespace nixbuild::sandbox
