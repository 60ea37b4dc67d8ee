#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// What the network of a fixed-output build lets out: the public internet, and nothing that is
/// only reachable because the host is where it is. No I/O: frames in, verdicts out.
namespace nixbuild::sandbox {

/// A block of IPv4 addresses. `address` is in host byte order, with no bit set behind the prefix.
struct AddressBlock {
  std::uint32_t address = 0;
  unsigned prefix = 32;

  [[nodiscard]] bool contains(std::uint32_t other) const noexcept;

  bool operator==(const AddressBlock&) const = default;
};

/// `192.0.2.7` or `192.0.2.0/24`. Nothing when it is neither, or when bits behind the prefix are
/// set.
[[nodiscard]] NIXBUILD_API std::optional<AddressBlock> parse_address_block(std::string_view text);

/// Which addresses a guest may send to.
class NIXBUILD_API EgressRules {
public:
  /// `own` are the host's addresses, which answer for the host's services whatever their range;
  /// `allowed` are exceptions from everything.
  EgressRules(std::vector<std::uint32_t> own, std::vector<AddressBlock> allowed);

  /// Public unicast addresses (RFC 6890 lists the others) that are not the host's own, and the
  /// exceptions. Cost: a walk over a fixed table and both lists.
  [[nodiscard]] bool permits(std::uint32_t address) const noexcept;

private:
  std::vector<std::uint32_t> own_;
  std::vector<AddressBlock> allowed_;
};

enum class FrameVerdict : std::uint8_t {
  Pass,
  Refuse, ///< dropped, and the guest is to be told (refusal)
  Drop,   ///< nothing that a guest's network stack sends here: dropped in silence
};

/// Judges one Ethernet frame of a guest. Passes are ARP, DNS to the name server
/// (kGuestNameServer), and TCP, UDP and ICMP over IPv4 to where `rules` permit. Reads at most the
/// headers; any bytes are allowed.
[[nodiscard]] NIXBUILD_API FrameVerdict judge_frame(ByteView frame, const EgressRules& rules);

/// The Ethernet frame that answers a refused one: ICMP "administratively prohibited", on which a
/// connection attempt fails at once instead of after minutes. Only for frames judged Refuse.
[[nodiscard]] NIXBUILD_API Bytes refusal_of(ByteView frame);

/// Cuts a stream of frames, each behind its length (u32, big-endian), as QEMU's stream backend and
/// passt write them. Holds at most one frame beside what it was fed last.
class NIXBUILD_API FrameStream {
public:
  static constexpr std::size_t kMaxFrame = 65'535 + 18;

  void feed(ByteView bytes);
  /// The next whole frame without its length; valid until the next call of either. Nothing when
  /// more bytes are needed. Error `sandbox.network` for a length of 0 or beyond kMaxFrame.
  [[nodiscard]] std::optional<ByteView> next();

private:
  Bytes buffer_;
  std::size_t begin_ = 0;
};

/// Appends a frame as FrameStream reads it.
NIXBUILD_API void append_frame(Bytes& stream, ByteView frame);

} // namespace nixbuild::sandbox
