#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/egress.hpp>
#include <nixbuild/sandbox/guest_job.hpp>

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace nixbuild::sandbox {

namespace {

constexpr std::size_t kEthernetHeader = 14;
constexpr std::size_t kIpHeader = 20;
constexpr std::size_t kLengthBytes = 4;
constexpr unsigned kEtherIpv4 = 0x0800;
constexpr unsigned kEtherArp = 0x0806;
constexpr unsigned kIcmp = 1;
constexpr unsigned kTcp = 6;
constexpr unsigned kUdp = 17;
constexpr unsigned kDns = 53;

constexpr std::uint32_t quad(unsigned a, unsigned b, unsigned c, unsigned d) {
  return (a << 24U) | (b << 16U) | (c << 8U) | d;
}

/// Not public unicast. Source: RFC 6890 and the IANA special-purpose address registry.
constexpr std::array<AddressBlock, 15> kSpecial{{
    {quad(0, 0, 0, 0), 8},
    {quad(10, 0, 0, 0), 8},
    {quad(100, 64, 0, 0), 10},
    {quad(127, 0, 0, 0), 8},
    {quad(169, 254, 0, 0), 16},
    {quad(172, 16, 0, 0), 12},
    {quad(192, 0, 0, 0), 24},
    {quad(192, 0, 2, 0), 24},
    {quad(192, 88, 99, 0), 24},
    {quad(192, 168, 0, 0), 16},
    {quad(198, 18, 0, 0), 15},
    {quad(198, 51, 100, 0), 24},
    {quad(203, 0, 113, 0), 24},
    {quad(224, 0, 0, 0), 4},
    {quad(240, 0, 0, 0), 4},
}};

unsigned u16_at(ByteView bytes, std::size_t at) {
  return (static_cast<unsigned>(bytes[at]) << 8U) | static_cast<unsigned>(bytes[at + 1]);
}

std::uint32_t u32_at(ByteView bytes, std::size_t at) {
  return (u16_at(bytes, at) << 16U) | u16_at(bytes, at + 2);
}

void put_u16(Bytes& bytes, std::size_t at, unsigned value) {
  bytes[at] = static_cast<std::uint8_t>(value >> 8U);
  bytes[at + 1] = static_cast<std::uint8_t>(value);
}

std::uint32_t address_of(const char* text) {
  in_addr address{};
  ::inet_pton(AF_INET, text, &address);
  return ntohl(address.s_addr);
}

/// The internet checksum of RFC 1071.
unsigned checksum(ByteView bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    sum += u16_at(bytes, i);
  }
  if (bytes.size() % 2 != 0) {
    sum += static_cast<std::uint32_t>(bytes.back()) << 8U;
  }
  while (sum > 0xffffU) {
    sum = (sum & 0xffffU) + (sum >> 16U);
  }
  return ~sum & 0xffffU;
}

/// An IPv4 packet whose headers are all there.
struct Packet {
  std::size_t header = 0; ///< bytes
  std::size_t length = 0; ///< of header and payload
  unsigned protocol = 0;
  bool first = false; ///< fragment with the transport header, or not fragmented
  std::uint32_t destination = 0;
};

std::optional<Packet> packet_of(ByteView bytes) {
  if (bytes.size() < kIpHeader || (bytes[0] >> 4U) != 4) {
    return std::nullopt;
  }
  Packet packet;
  packet.header = (bytes[0] & 0x0fU) * std::size_t{4};
  packet.length = u16_at(bytes, 2);
  packet.protocol = bytes[9];
  packet.first = (u16_at(bytes, 6) & 0x1fffU) == 0;
  packet.destination = u32_at(bytes, 16);
  if (packet.header < kIpHeader || packet.length < packet.header || packet.length > bytes.size()) {
    return std::nullopt;
  }
  return packet;
}

bool asks_for_names(ByteView bytes, const Packet& packet) {
  return packet.first && (packet.protocol == kUdp || packet.protocol == kTcp) &&
         packet.length >= packet.header + 4 && u16_at(bytes, packet.header + 2) == kDns;
}

} // namespace

bool AddressBlock::contains(std::uint32_t other) const noexcept {
  return prefix == 0 || ((address ^ other) >> (32U - prefix)) == 0;
}

std::optional<AddressBlock> parse_address_block(std::string_view text) {
  AddressBlock block;
  const auto slash = text.find('/');
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(text.substr(0, slash)).c_str(), &address) != 1) {
    return std::nullopt;
  }
  block.address = ntohl(address.s_addr);
  if (slash != std::string_view::npos) {
    const auto digits = text.substr(slash + 1);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), block.prefix);
    if (error != std::errc() || end != digits.data() + digits.size() || block.prefix > 32) {
      return std::nullopt;
    }
  }
  const auto behind = block.prefix == 32 ? 0 : 0xffffffffU >> block.prefix;
  if ((block.address & behind) != 0) {
    return std::nullopt;
  }
  return block;
}

EgressRules::EgressRules(std::vector<std::uint32_t> own, std::vector<AddressBlock> allowed)
    : own_(std::move(own)), allowed_(std::move(allowed)) {}

bool EgressRules::permits(std::uint32_t address) const noexcept {
  const auto holds = [address](const AddressBlock& block) {
    return block.contains(address);
  };
  if (std::any_of(allowed_.begin(), allowed_.end(), holds)) {
    return true;
  }
  return std::find(own_.begin(), own_.end(), address) == own_.end() &&
         std::none_of(kSpecial.begin(), kSpecial.end(), holds);
}

FrameVerdict judge_frame(ByteView frame, const EgressRules& rules) {
  static const auto name_server = address_of(kGuestNameServer);
  if (frame.size() < kEthernetHeader) {
    return FrameVerdict::Drop;
  }
  const auto type = u16_at(frame, 12);
  if (type == kEtherArp) {
    return FrameVerdict::Pass;
  }
  const auto bytes = frame.subspan(kEthernetHeader);
  const auto packet = type == kEtherIpv4 ? packet_of(bytes) : std::nullopt;
  if (!packet) {
    return FrameVerdict::Drop;
  }
  if (packet->protocol != kTcp && packet->protocol != kUdp && packet->protocol != kIcmp) {
    return FrameVerdict::Drop;
  }
  if (packet->destination == name_server) {
    return asks_for_names(bytes, *packet) ? FrameVerdict::Pass : FrameVerdict::Refuse;
  }
  if (rules.permits(packet->destination)) {
    return FrameVerdict::Pass;
  }
  // An error about an error, a fragment or a broadcast is never sent (RFC 1122, 3.2.2).
  const bool answerable = packet->first && packet->protocol != kIcmp &&
                          packet->destination < quad(224, 0, 0, 0) && packet->destination != 0;
  return answerable ? FrameVerdict::Refuse : FrameVerdict::Drop;
}

Bytes refusal_of(ByteView frame) {
  constexpr std::size_t icmp_header = 8;
  constexpr unsigned unreachable = 3;
  constexpr unsigned prohibited = 13;
  const auto original = frame.subspan(kEthernetHeader);
  const auto packet = packet_of(original);
  if (!packet) {
    throw Error(Reaction::Internal, "sandbox.network", "a refusal of what is no packet");
  }
  // The original's header and the first 8 bytes behind it, by which its sender finds the socket.
  const auto quoted = std::min(packet->length, packet->header + 8);
  Bytes answer(kEthernetHeader + kIpHeader + icmp_header + quoted, 0);
  const auto copy = [&](std::size_t from, std::size_t count, std::size_t to) {
    std::copy_n(frame.begin() + static_cast<std::ptrdiff_t>(from),
                count,
                answer.begin() + static_cast<std::ptrdiff_t>(to));
  };
  copy(6, 6, 0); // to whom it came from
  copy(0, 6, 6);
  put_u16(answer, 12, kEtherIpv4);
  const std::size_t ip = kEthernetHeader;
  answer[ip] = 0x45;
  put_u16(answer, ip + 2, static_cast<unsigned>(answer.size() - ip));
  answer[ip + 8] = 64; // time to live
  answer[ip + 9] = kIcmp;
  copy(kEthernetHeader + 16, 4, ip + 12);
  copy(kEthernetHeader + 12, 4, ip + 16);
  put_u16(answer, ip + 10, checksum(ByteView(answer).subspan(ip, kIpHeader)));
  const std::size_t icmp = ip + kIpHeader;
  answer[icmp] = unreachable;
  answer[icmp + 1] = prohibited;
  copy(kEthernetHeader, quoted, icmp + icmp_header);
  put_u16(answer, icmp + 2, checksum(ByteView(answer).subspan(icmp)));
  return answer;
}

void FrameStream::feed(ByteView bytes) {
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

std::optional<ByteView> FrameStream::next() {
  const auto left = ByteView(buffer_).subspan(begin_);
  if (left.size() < kLengthBytes) {
    return std::nullopt;
  }
  const std::size_t length = u32_at(left, 0);
  if (length == 0 || length > kMaxFrame) {
    throw Error(Reaction::Reject,
                "sandbox.network",
                fmt::format("a frame of {} bytes, the limit is {}", length, kMaxFrame));
  }
  if (left.size() < kLengthBytes + length) {
    return std::nullopt;
  }
  begin_ += kLengthBytes + length;
  return left.subspan(kLengthBytes, length);
}

void append_frame(Bytes& stream, ByteView frame) {
  const auto at = stream.size();
  stream.resize(at + kLengthBytes);
  put_u16(stream, at, static_cast<unsigned>(frame.size() >> 16U));
  put_u16(stream, at + 2, static_cast<unsigned>(frame.size() & 0xffffU));
  stream.insert(stream.end(), frame.begin(), frame.end());
}

} // namespace nixbuild::sandbox
