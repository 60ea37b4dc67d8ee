#include "server/machine_health.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/store/memory.hpp>

#include <catch2/catch.hpp>

#include <fstream>

namespace machine_health_test {

using namespace nixbuild;

TEST_CASE("machine health: pressure is read from the kernel's lines", "[server]") {
  const auto text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\n"
                    "full avg10=3.25 avg60=0.00 avg300=0.00 total=1\n";
  CHECK(server::stall_average(text, "some") == 12.5);
  CHECK(server::stall_average(text, "full") == 3.25);
  CHECK(server::stall_average("", "some") == 0);
  CHECK(server::stall_average("some nothing\n", "some") == 0);
  CHECK(server::stall_average("some avg10=1e9\n", "some") == 100);
}

TEST_CASE("machine health: a machine that tells nothing is not pressed", "[server]") {
  tests::ScratchFolder folder;
  const auto health = server::health_of_machine(folder.path(), folder.path() / "absent");
  CHECK(health.cpu_some == 0);
  CHECK(health.memory_full == 0);
  CHECK(health.free_disk_bytes > 0);
  std::ofstream(folder.path() / "memory") << "some avg10=40.00 total=5\nfull avg10=9.00 total=1\n";
  const auto pressed = server::health_of_machine(folder.path(), folder.path());
  CHECK(pressed.memory_some == 40);
  CHECK(pressed.memory_full == 9);
}

TEST_CASE("machine health: what scratch disks may soon take is not free", "[server]") {
  tests::ScratchFolder folder;
  const auto free = [&] {
    return server::health_of_machine(folder.path(), folder.path()).free_disk_bytes;
  };
  const auto before = free();
  for (unsigned machine = 0; machine < 3; ++machine) {
    const auto place = folder.path() / "run" / std::to_string(machine);
    std::filesystem::create_directories(place);
    std::ofstream(place / "scratch") << "";
    std::filesystem::resize_file(place / "scratch", 8 * kGiB);
  }
  CHECK(free() + 2 * kGiB < before);
}

TEST_CASE("machine health: ended builds teach, oldest first, and failures of ours do not",
          "[server]") {
  const auto db = store::make_memory_metadata();
  const auto account = db->ensure_account("default");
  const auto add = [&](const char* name, model::BuildStatus status, std::uint64_t peak) {
    store::BuildRecord record;
    record.account = account;
    record.derivation = std::string("0123456789abcdfghijklmnpqrsvwxyz-") + name + ".drv";
    record.platform = "x86_64-linux";
    record.status = status;
    record.created_us = 1;
    record.started_us = 1'000'000;
    record.stopped_us = 3'500'000;
    record.cpus = 2;
    record.peak_memory_bytes = peak;
    db->add_build(record);
  };
  add("hello-2.12", model::BuildStatus::Built, 100);
  add("hello-2.13", model::BuildStatus::MiscFailure, 200);
  add("hello-2.14", model::BuildStatus::PermanentFailure, 300);
  const auto records = server::history_of(*db, account, 10);
  REQUIRE(records.size() == 2);
  CHECK(records[0].package == "hello");
  CHECK(records[0].version == "2.12");
  CHECK(records[0].peak_memory_bytes == 100);
  CHECK(records[0].duration == std::chrono::milliseconds(2500));
  CHECK(records[0].account == std::to_string(account.value));
  CHECK(records[1].outcome == scheduler::Outcome::BuilderFailed);
}

} // namespace machine_health_test
