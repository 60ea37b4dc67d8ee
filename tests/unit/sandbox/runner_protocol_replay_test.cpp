// The fuzz target of the runner protocol, fed with good streams and small changes of them.

#include <nixbuild/sandbox/runner_protocol.hpp>

#include <catch2/catch.hpp>

#include <random>

using namespace nixbuild;
using namespace nixbuild::sandbox;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("runner protocol: changed streams are refused or mean what they say",
          "[sandbox][property]") {
  runner::Start start;
  start.id = "attempt-1";
  start.qemu = "/usr/bin/qemu-system-x86_64";
  start.extents = 2;
  start.job = "job";
  const std::vector<std::string> seeds{
      runner::encode(start) + runner::encode(runner::Extents{{{0, 4096}, {8192, kGiB}}}) +
          runner::encode(runner::Attach{7}),
      runner::encode(runner::Accepted{1, 100, 101, "no namespaces", "no cgroup"}) +
          runner::encode(runner::Phase{"boot", 123}) +
          runner::encode(runner::LogData{0, "line\n"}) + runner::encode(runner::Exited{"exit"}),
      runner::encode(runner::Output{1}) + runner::encode(runner::OutputData{"bytes"}) +
          runner::encode(runner::OutputEnd{}) + runner::encode(runner::OutputFailed{"why"}) +
          runner::encode(runner::Failed{"sandbox.lost", "gone"}) +
          runner::encode(runner::Down{1, 2, 3}) + runner::encode(runner::Kill{})};
  std::mt19937 random(1);
  for (const auto& seed : seeds) {
    CHECK(LLVMFuzzerTestOneInput(bytes_of(seed).data(), seed.size()) == 0);
    for (int round = 0; round < 5000; ++round) {
      auto changed = seed;
      for (auto changes = 1 + random() % 3; changes > 0; --changes) {
        const auto at = random() % changed.size();
        changed[at] = static_cast<char>(changed[at] ^ (1 << random() % 8));
      }
      if (round % 4 == 0) {
        changed.resize(random() % changed.size());
      }
      LLVMFuzzerTestOneInput(bytes_of(changed).data(), changed.size());
    }
  }
}
