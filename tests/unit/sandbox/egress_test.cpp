#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/egress.hpp>
#include <nixbuild/sandbox/guest_job.hpp>

#include <arpa/inet.h>
#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

std::uint32_t address(const char* text) {
  in_addr parsed{};
  REQUIRE(::inet_pton(AF_INET, text, &parsed) == 1);
  return ntohl(parsed.s_addr);
}

EgressRules rules(std::vector<std::string> allowed = {}) {
  std::vector<AddressBlock> blocks;
  for (const auto& text : allowed) {
    blocks.push_back(parse_address_block(text).value());
  }
  return {{address("127.0.0.1"), address("93.184.216.34")}, std::move(blocks)};
}

void put(Bytes& bytes, unsigned value, unsigned count) {
  for (unsigned i = count; i > 0; --i) {
    bytes.push_back(static_cast<std::uint8_t>(value >> (8 * (i - 1))));
  }
}

/// A frame with an IPv4 packet: a TCP, UDP or other header's first eight bytes as payload.
Bytes frame_to(const char* destination,
               unsigned protocol,
               unsigned port = 80,
               unsigned fragment = 0) {
  Bytes frame(12, 0x52);
  frame[0] = 0x9a; // the other side's hardware address
  put(frame, 0x0800, 2);
  put(frame, 0x4500, 2);
  put(frame, 28, 2);
  put(frame, 7, 2);
  put(frame, fragment, 2);
  put(frame, 64, 1);
  put(frame, protocol, 1);
  put(frame, 0, 2);
  put(frame, address("10.0.2.15"), 4);
  put(frame, address(destination), 4);
  put(frame, 40000, 2);
  put(frame, port, 2);
  put(frame, 0x01020304, 4);
  return frame;
}

unsigned word(const Bytes& bytes, std::size_t at) {
  return static_cast<unsigned>(bytes.at(at) << 8U) + bytes.at(at + 1);
}

/// The sum over a region that holds its own checksum.
unsigned sum_of(const Bytes& bytes, std::size_t from, std::size_t to) {
  unsigned sum = 0;
  for (std::size_t i = from; i < to; i += 2) {
    sum += i + 1 < to ? word(bytes, i) : static_cast<unsigned>(bytes[i] << 8U);
  }
  while (sum > 0xffff) {
    sum = (sum & 0xffffU) + (sum >> 16U);
  }
  return sum;
}

} // namespace

TEST_CASE("egress: address blocks are read, and nothing that only looks like one", "[sandbox]") {
  CHECK(parse_address_block("192.0.2.7") == AddressBlock{0xc0000207, 32});
  CHECK(parse_address_block("10.1.0.0/16") == AddressBlock{0x0a010000, 16});
  CHECK(parse_address_block("0.0.0.0/0") == AddressBlock{0, 0});
  CHECK(parse_address_block("0.0.0.0/0")->contains(0xffffffff));
  for (const char* wrong : {"",
                            "10.0.0",
                            "10.0.0.1/",
                            "10.0.0.0/33",
                            "10.0.0.1/8",
                            "10.0.0.0/8x",
                            "::1",
                            "example.org",
                            "10.0.0.0/-1",
                            "10.0.0.0/ 8"}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_address_block(wrong).has_value());
  }
}

TEST_CASE("egress: the public internet is open, everything else is not", "[sandbox]") {
  const auto strict = rules();
  for (const char* open : {"1.1.1.1",
                           "9.255.255.255",
                           "11.0.0.0",
                           "172.15.0.1",
                           "172.32.0.1",
                           "192.167.255.255",
                           "192.169.0.0",
                           "223.255.255.255",
                           "100.63.0.1",
                           "100.128.0.1",
                           "198.20.0.1"}) {
    CAPTURE(open);
    CHECK(strict.permits(address(open)));
    CHECK(judge_frame(frame_to(open, 6), strict) == FrameVerdict::Pass);
    CHECK(judge_frame(frame_to(open, 17), strict) == FrameVerdict::Pass);
    CHECK(judge_frame(frame_to(open, 1), strict) == FrameVerdict::Pass);
    CHECK(judge_frame(frame_to(open, 47), strict) == FrameVerdict::Drop);
  }
  for (const char* closed : {"10.0.0.1",
                             "10.0.2.2",
                             "127.0.0.1",
                             "127.1.2.3",
                             "169.254.169.254",
                             "172.16.0.1",
                             "172.31.255.255",
                             "192.168.1.1",
                             "100.64.0.1",
                             "192.0.2.1",
                             "198.18.0.1",
                             "93.184.216.34"}) {
    CAPTURE(closed);
    CHECK_FALSE(strict.permits(address(closed)));
    CHECK(judge_frame(frame_to(closed, 6), strict) == FrameVerdict::Refuse);
    CHECK(judge_frame(frame_to(closed, 17), strict) == FrameVerdict::Refuse);
    CHECK(judge_frame(frame_to(closed, 1), strict) == FrameVerdict::Drop);
    CHECK(judge_frame(frame_to(closed, 6, 80, 3), strict) == FrameVerdict::Drop);
  }
  for (const char* many : {"224.0.0.1", "255.255.255.255", "0.0.0.0", "240.0.0.1"}) {
    CAPTURE(many);
    CHECK(judge_frame(frame_to(many, 17), strict) == FrameVerdict::Drop);
  }
}

TEST_CASE("egress: what is allowed by name is open, also of the host's own", "[sandbox]") {
  const auto some = rules({"10.1.0.0/16", "93.184.216.34"});
  CHECK(some.permits(address("10.1.255.1")));
  CHECK(some.permits(address("93.184.216.34")));
  CHECK_FALSE(some.permits(address("10.2.0.1")));
}

TEST_CASE("egress: of the name server only its port is open", "[sandbox]") {
  CHECK(judge_frame(frame_to(kGuestNameServer, 17, 53), rules()) == FrameVerdict::Pass);
  CHECK(judge_frame(frame_to(kGuestNameServer, 6, 53), rules()) == FrameVerdict::Pass);
  CHECK(judge_frame(frame_to(kGuestNameServer, 6, 80), rules()) == FrameVerdict::Refuse);
  CHECK(judge_frame(frame_to(kGuestNameServer, 17, 53, 1), rules()) == FrameVerdict::Refuse);
}

TEST_CASE("egress: frames that are cut short or of another kind do not pass", "[sandbox]") {
  const auto whole = frame_to("1.1.1.1", 6);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK(judge_frame(ByteView(whole).first(size), rules()) == FrameVerdict::Drop);
  }
  auto six = whole;
  six[12] = 0x86;
  six[13] = 0xdd;
  CHECK(judge_frame(six, rules()) == FrameVerdict::Drop);
  auto tagged = whole; // a VLAN's tag would hide the destination
  tagged[12] = 0x81;
  CHECK(judge_frame(tagged, rules()) == FrameVerdict::Drop);
  auto arp = whole;
  arp[13] = 0x06;
  CHECK(judge_frame(arp, rules()) == FrameVerdict::Pass);
  auto header = whole;
  header[14] = 0x44; // a header of 16 bytes
  CHECK(judge_frame(header, rules()) == FrameVerdict::Drop);
  header[14] = 0x4f; // longer than the packet
  CHECK(judge_frame(header, rules()) == FrameVerdict::Drop);
}

TEST_CASE("egress: a refusal goes back to its sender with both checksums right", "[sandbox]") {
  const auto refused = frame_to("10.9.8.7", 6, 443);
  const auto answer = refusal_of(refused);
  CHECK((Bytes(answer.begin(), answer.begin() + 6) ==
         Bytes(refused.begin() + 6, refused.begin() + 12)));
  CHECK(word(answer, 12) == 0x0800);
  CHECK((Bytes(answer.begin() + 26, answer.begin() + 30) ==
         Bytes(refused.begin() + 30, refused.begin() + 34)));
  CHECK((Bytes(answer.begin() + 30, answer.begin() + 34) ==
         Bytes(refused.begin() + 26, refused.begin() + 30)));
  CHECK(word(answer, 16) == answer.size() - 14);
  CHECK(sum_of(answer, 14, 34) == 0xffff);
  CHECK(answer.at(34) == 3);
  CHECK(answer.at(35) == 13);
  CHECK(sum_of(answer, 34, answer.size()) == 0xffff);
  CHECK((Bytes(answer.begin() + 42, answer.end()) == Bytes(refused.begin() + 14, refused.end())));
}

TEST_CASE("egress: a stream of frames is cut the same however it arrives", "[sandbox]") {
  Bytes bytes;
  std::vector<Bytes> frames{
      Bytes(1, 7), Bytes(60, 1), Bytes(FrameStream::kMaxFrame, 2), Bytes(9, 3)};
  for (const auto& frame : frames) {
    append_frame(bytes, frame);
  }
  for (const std::size_t piece :
       {std::size_t{1}, std::size_t{3}, std::size_t{4096}, bytes.size()}) {
    FrameStream stream;
    std::vector<Bytes> found;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      stream.feed(ByteView(bytes).subspan(at, std::min(piece, bytes.size() - at)));
      while (const auto frame = stream.next()) {
        found.emplace_back(frame->begin(), frame->end());
      }
    }
    CHECK((found == frames));
  }
}

TEST_CASE("egress: a frame's length has a limit", "[sandbox][reject]") {
  for (const std::uint32_t length :
       {std::uint32_t{0}, std::uint32_t{FrameStream::kMaxFrame + 1}, ~0U}) {
    FrameStream stream;
    Bytes bytes;
    put(bytes, length, 4);
    stream.feed(bytes);
    try {
      (void)stream.next();
      FAIL("a wrong length was taken");
    } catch (const Error& error) {
      CHECK(error.code() == "sandbox.network");
    }
  }
}
