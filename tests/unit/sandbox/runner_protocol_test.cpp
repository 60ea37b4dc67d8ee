#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

std::vector<runner::Message> samples() {
  runner::Start start;
  start.id = "attempt-1";
  start.cpus = 4;
  start.memory_bytes = 5 * kGiB;
  start.kvm = true;
  start.qemu = "/usr/bin/qemu-system-x86_64";
  start.qemu_files = "x/usr/bin/qemu-system-x86_64\n";
  start.kernel_options = "x=y";
  start.uid_base = 700'000;
  start.uid_count = 64;
  start.slot_directory = "/state/slots";
  start.disk_maker = "/usr/sbin/mke2fs";
  start.scratch_bytes = 64 * kGiB;
  start.log_limit_bytes = kGiB;
  start.cgroup_parent = "/sys/fs/cgroup/unit";
  start.cgroup_name = "build-1";
  start.cgroup_release = true;
  start.extents = 3;
  start.job = std::string(100'000, 'j');
  return {start,
          runner::Extents{{{0, 4096}, {8192, kGiB}}},
          runner::Attach{12345678901},
          runner::Output{7},
          runner::Finish{},
          runner::Kill{},
          runner::Input{"ls\n", 24, 80},
          runner::Accepted{1, 100, 101, "a user", "no namespaces"},
          runner::Phase{"boot", 123456},
          runner::LogData{77, std::string("a\0b", 3)},
          runner::Measured{5, 6},
          runner::Exited{"exit"},
          runner::OutputData{std::string(runner::kMaxData, 'x')},
          runner::OutputEnd{},
          runner::OutputFailed{"is a socket"},
          runner::Failed{"sandbox.lost", "gone"},
          runner::Down{1, 2, 3}};
}

void refuse(std::string_view bytes) {
  runner::Decoder decoder;
  decoder.feed(bytes_of(bytes));
  try {
    (void)decoder.next();
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.runner-protocol");
  }
}

} // namespace

TEST_CASE("runner protocol: every message survives, whole and byte by byte",
          "[sandbox][roundtrip]") {
  std::string stream;
  for (const auto& message : samples()) {
    stream += runner::encode(message);
  }
  for (const std::size_t step : {stream.size(), std::size_t{1}, std::size_t{4093}}) {
    runner::Decoder decoder;
    std::vector<runner::Message> seen;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      decoder.feed(bytes_of(std::string_view(stream).substr(at, step)));
      while (auto message = decoder.next()) {
        seen.push_back(std::move(*message));
      }
    }
    CHECK(seen == samples());
    CHECK(decoder.pending() == 0);
  }
}

TEST_CASE("runner protocol: broken frames are refused", "[sandbox][reject]") {
  refuse(std::string("\x00\x00\x00\x00\x63", 5));                 // unknown type
  refuse(std::string("\xff\xff\xff\xff\x01", 5));                 // beyond the limit
  refuse(std::string("\x01\x00\x00\x00\x05x", 6));                // trailing bytes
  refuse(std::string("\x02\x00\x00\x00\x04\x00\x00", 7));         // too short
  refuse(std::string("\x04\x00\x00\x00\x46\xff\xff\x01\x00", 9)); // text beyond its limit
  refuse(std::string("\x04\x00\x00\x00\x02\xc9\x00\x00\x00", 9)); // 201 extents
  CHECK_THROWS_AS(runner::encode(runner::OutputData{std::string(runner::kMaxData + 1, 'x')}),
                  Error);
}

TEST_CASE("runner protocol: an announced length allocates nothing", "[sandbox]") {
  runner::Decoder decoder;
  decoder.feed(bytes_of(std::string("\x00\x00\x00\x05\x44", 5))); // 80 MiB to come
  CHECK_FALSE(decoder.next());
  CHECK(decoder.pending() == 5);
}
