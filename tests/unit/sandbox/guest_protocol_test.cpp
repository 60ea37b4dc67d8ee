#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <catch2/catch.hpp>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace guest_protocol_test {

using namespace nixbuild;
using namespace nixbuild::sandbox;
using namespace std::chrono_literals;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

template <class Call>
std::string code_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

GuestJob full_job() {
  GuestJob job;
  job.builder = "/nix/store/x-bash/bin/bash";
  job.arguments = {"-e", "", std::string("a\0b", 3)};
  job.environment = {{"PATH", "/path-not-set"}, {"out", "/nix/store/x-out"}};
  job.files = {{".attrs.json", "{}"}, {".attr-0", std::string(100'000, 'x')}};
  job.outputs = {{"out", "x-out"}, {"dev", "x-dev"}};
  job.uid = 1001;
  job.gid = 101;
  job.linux32 = true;
  job.network = true;
  job.services = "http 80/tcp\n";
  job.certificates = std::string(300'000, 'c');
  job.hosts = "127.0.0.1 localhost\n";
  job.resolv_conf = "nameserver 10.0.2.3\n";
  job.probe_only = true;
  return job;
}

GuestExit full_exit() {
  GuestExit exit;
  exit.end = GuestEnd::Signalled;
  exit.code = -9;
  exit.message = "gone";
  exit.outputs = {{true, false, ""}, {false, true, "file 'x' has an unsupported type"}};
  exit.cpu_user = 1s;
  exit.cpu_system = 2us;
  exit.peak_memory_bytes = 3 * kGiB;
  exit.disk_bytes = kGiB + 1;
  exit.disk_full = true;
  exit.scratch_bytes = 7 * kGiB;
  exit.scratch_in_memory = true;
  exit.log_bytes = 4;
  exit.boot_time = 5us;
  exit.mount_time = 6us;
  exit.builder_time = 7us;
  return exit;
}

std::vector<guest::FromGuest> guest_messages() {
  return {guest::Hello{guest::kProtocolVersion, 1234us},
          guest::Started{},
          guest::Exited{full_exit()},
          guest::OutputEnd{1, "no"},
          guest::Failure{"why"}};
}

std::vector<guest::ToGuest> host_messages() {
  return {guest::Job{full_job()},
          guest::SendOutput{7},
          guest::PowerOff{},
          guest::Input{"ls\n", 24, 80}};
}

std::string raw_frame(std::uint32_t size, std::uint32_t type, std::string_view payload) {
  std::string bytes(8, '\0');
  for (unsigned i = 0; i < 4; ++i) {
    bytes[i] = static_cast<char>(size >> (8 * i));
    bytes[4 + i] = static_cast<char>(type >> (8 * i));
  }
  return bytes.append(payload);
}

} // namespace

TEST_CASE("guest protocol: all messages survive byte by byte", "[sandbox][roundtrip]") {
  guest::FrameBuffer from(guest::kMaxGuestPayload);
  std::vector<guest::FromGuest> got;
  for (const auto& message : guest_messages()) {
    for (const char byte : guest::encode(message)) {
      from.feed(bytes_of(std::string_view(&byte, 1)));
      while (const auto frame = from.next()) {
        got.push_back(guest::decode_from_guest(*frame));
      }
    }
  }
  CHECK(got == guest_messages());
  CHECK(from.pending() == 0);

  guest::FrameBuffer to(guest::kMaxHostPayload);
  std::string all;
  for (const auto& message : host_messages()) {
    all += guest::encode(message);
  }
  to.feed(bytes_of(all));
  for (const auto& message : host_messages()) {
    const auto frame = to.next();
    REQUIRE(frame);
    CHECK(guest::decode_to_guest(*frame) == message);
  }
  CHECK_FALSE(to.next());
}

TEST_CASE("guest protocol: the bytes on the port are pinned", "[sandbox][golden]") {
  CHECK(guest::encode(guest::Hello{1, 258us}) ==
        std::string("\x0c\0\0\0\x01\0\0\0\x01\0\0\0\x02\x01\0\0\0\0\0\0", 20));
  CHECK(guest::encode(guest::SendOutput{3}) == std::string("\x04\0\0\0\x11\0\0\0\x03\0\0\0", 12));
  CHECK(guest::encode(guest::Input{"x", 24, 80}) ==
        std::string("\x0d\0\0\0\x13\0\0\0\x01\0\0\0x\x18\0\0\0\x50\0\0\0", 21));
  CHECK_THROWS_AS(guest::encode(guest::Input{std::string(guest::kMaxInput + 1, 'x'), 0, 0}), Error);
  CHECK(guest::encode(guest::OutputEnd{2, "no"}) ==
        std::string("\x0a\0\0\0\x04\0\0\0\x02\0\0\0\x02\0\0\0no", 18));
}

TEST_CASE("guest protocol: values that are cut anywhere are refused", "[sandbox][reject]") {
  const auto job = encode_guest_job([] {
    auto small = full_job();
    small.files.pop_back();
    small.certificates.resize(100);
    return small;
  }());
  for (std::size_t size = 0; size < job.size(); ++size) {
    CHECK(code_of([&] { (void)decode_guest_job(job.substr(0, size)); }) == "sandbox.protocol");
  }
  const auto exit = encode_guest_exit(full_exit());
  for (std::size_t size = 0; size < exit.size(); ++size) {
    CHECK(code_of([&] { (void)decode_guest_exit(exit.substr(0, size)); }) == "sandbox.protocol");
  }
  CHECK(code_of([&] { (void)decode_guest_exit(exit + "x"); }) == "sandbox.protocol");
  CHECK(code_of([&] { (void)decode_guest_job(job + "x"); }) == "sandbox.protocol");
}

TEST_CASE("guest protocol: oversized frames are refused by their header", "[sandbox][reject]") {
  guest::FrameBuffer frames(guest::kMaxGuestPayload);
  frames.feed(bytes_of(raw_frame(guest::kMaxGuestPayload + 1, 5, "")));
  CHECK(code_of([&] { (void)frames.next(); }) == "sandbox.protocol");

  guest::FrameBuffer exact(guest::kMaxGuestPayload);
  exact.feed(bytes_of(raw_frame(guest::kMaxGuestPayload, 5, "")));
  CHECK_FALSE(exact.next());
}

TEST_CASE("guest protocol: unknown types and values are refused", "[sandbox][reject]") {
  const auto decode = [](std::uint32_t type, std::string_view payload) {
    return code_of([&] { (void)guest::decode_from_guest({type, bytes_of(payload)}); });
  };
  CHECK(decode(2, "") == "none");
  CHECK(decode(2, "x") == "sandbox.protocol");
  CHECK(decode(0, "") == "sandbox.protocol");
  CHECK(decode(16, "") == "sandbox.protocol");
  auto exit = encode_guest_exit(full_exit());
  exit[0] = 4;
  CHECK(decode(3, exit) == "sandbox.protocol");
  exit[0] = 0;
  CHECK(decode(3, exit) == "none");
  // A negative time.
  CHECK(decode(1, std::string("\1\0\0\0\0\0\0\0\0\0\0\x80", 12)) == "sandbox.protocol");
  CHECK(code_of([&] { (void)guest::decode_to_guest({1, {}}); }) == "sandbox.protocol");
}

TEST_CASE("guest protocol: limits hold for both sides", "[sandbox][reject]") {
  GuestExit exit;
  exit.message = std::string(guest::kMaxText + 1, 'x');
  CHECK(code_of([&] { (void)encode_guest_exit(exit); }) == "sandbox.protocol");
  exit.message.clear();
  exit.outputs.resize(guest::kMaxOutputs + 1);
  CHECK(code_of([&] { (void)encode_guest_exit(exit); }) == "sandbox.protocol");
  exit.outputs.assign(10, {true, false, std::string(guest::kMaxText, 'x')});
  CHECK(code_of([&] { (void)encode_guest_exit(exit); }) == "sandbox.protocol");
  GuestJob job;
  job.files = {{"../x", ""}};
  CHECK(code_of([&] { (void)decode_guest_job(encode_guest_job(job)); }) == "sandbox.protocol");
  job.files.clear();
  job.outputs = {{"out", "a/b"}};
  CHECK(code_of([&] { (void)decode_guest_job(encode_guest_job(job)); }) == "sandbox.protocol");
  job.outputs.clear();
  job.hosts = std::string(guest::kMaxHostPayload, 'x');
  CHECK(code_of([&] { (void)encode_guest_job(job); }) == "sandbox.protocol");
}

TEST_CASE("guest protocol: output frames in any cut", "[sandbox][roundtrip]") {
  const std::string stream("\x03\0\0\0abc\x01\0\0\0d\0\0\0\0rest", 20);
  for (std::size_t cut = 1; cut <= stream.size(); ++cut) {
    guest::OutputFrames frames;
    std::string got;
    StringSink sink(got);
    std::size_t at = 0;
    while (!frames.ended()) {
      const auto piece = std::string_view(stream).substr(at, cut);
      at += frames.feed(bytes_of(piece), sink);
    }
    CHECK(got == "abcd");
    CHECK(stream.substr(at) == "rest");
    frames.restart();
    CHECK_FALSE(frames.ended());
  }
  guest::OutputFrames frames;
  std::string got;
  StringSink sink(got);
  CHECK(code_of([&] { frames.feed(bytes_of(std::string_view("\x01\0\x10\0", 4)), sink); }) ==
        "sandbox.protocol");
}

TEST_CASE("guest protocol fuzzing: real streams and their neighbours", "[sandbox][fuzz]") {
  std::vector<std::string> seeds;
  std::string all;
  for (const auto& message : guest_messages()) {
    all += guest::encode(message);
  }
  seeds.push_back(std::string("\0\0", 2) + all);
  std::string host = std::string("\0\1", 2);
  auto job = full_job();
  job.files.clear();
  seeds.push_back(host + guest::encode(guest::Job{job}) + guest::encode(guest::PowerOff{}));
  seeds.emplace_back("\0\2\x03\0\0\0abc\x01\0\0\0d\0\0\0\0rest", 22);
  auto exit = full_exit();
  exit.log_bytes = 0;
  seeds.push_back(std::string("\0\3", 2) +
                  guest::encode(guest::Hello{guest::kProtocolVersion, 1us}) +
                  guest::encode(guest::Started{}) + guest::encode(guest::Exited{exit}) +
                  guest::encode(guest::OutputEnd{0, ""}));
  std::mt19937 random(1);
  for (const auto& seed : seeds) {
    LLVMFuzzerTestOneInput(bytes_of(seed).data(), seed.size());
    for (int round = 0; round < 2000; ++round) {
      auto changed = seed;
      changed[0] = static_cast<char>(random() % 256);
      for (auto changes = random() % 3; changes > 0; --changes) {
        changed[2 + random() % (changed.size() - 2)] ^= static_cast<char>(1U << random() % 8);
      }
      if (round % 4 == 0) {
        changed.erase(2 + random() % (changed.size() - 2), random() % 5);
      }
      LLVMFuzzerTestOneInput(bytes_of(changed).data(), changed.size());
    }
  }
}

} // namespace guest_protocol_test
