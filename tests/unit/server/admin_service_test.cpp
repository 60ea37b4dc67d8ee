#include "admin_rig.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <chrono>
#include <string>
#include <thread>

namespace admin_service_test {

using namespace nixbuild;
using namespace nixbuild::test;
namespace json = boost::json;

TEST_CASE("attach: a finished build's log is followed by how it ended", "[server][admin]") {
  Fixture f;
  const auto good = f.add_build("good.drv", model::BuildStatus::Built);
  f.logs->append(good, bytes_of(std::string("one\ntwo\n")));
  f.logs->finish(good);
  const auto seen = f.run({"attach", std::to_string(good)});
  CHECK(seen.status == 0);
  CHECK(seen.out == "one\ntwo\n");
  CHECK(seen.err == "build " + std::to_string(good) + ": Built after 1 m 02 s\n");
  const auto bad = f.add_build("bad.drv", model::BuildStatus::PermanentFailure);
  auto record = *f.db->build(f.account, bad);
  record.error = "it broke";
  f.db->update_build(record);
  f.logs->finish(bad);
  const auto failed = f.run({"attach", std::to_string(bad)});
  CHECK(failed.status == 1);
  CHECK(failed.err.ends_with(": it broke\n"));
}

TEST_CASE("attach: a running build is followed from its first line to its end", "[server][admin]") {
  Fixture f;
  const auto id = f.add_build("slow.drv", std::nullopt);
  f.logs->append(id, bytes_of(std::string("first\n")));
  std::jthread builder([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    f.logs->append(id, bytes_of(std::string("last\n")));
    auto record = *f.db->build(f.account, id);
    record.status = model::BuildStatus::TimedOut;
    record.stopped_us = record.started_us + 1;
    f.db->update_build(record);
    f.logs->finish(id);
  });
  const auto seen = f.run({"attach", std::to_string(id)});
  CHECK(seen.out == "first\nlast\n");
  CHECK(seen.status == 1);
  CHECK(seen.err.find("TimedOut") != std::string::npos);
}

TEST_CASE("attach and usage: another account's builds do not exist", "[server][admin][reject]") {
  Fixture f;
  f.db->ensure_account("other");
  const auto id = f.add_build("mine.drv", model::BuildStatus::Built);
  f.logs->append(id, bytes_of(std::string("secret\n")));
  const auto seen = f.run({"attach", std::to_string(id)}, true, "other");
  const auto absent = f.run({"attach", "424242"}, true, "other");
  CHECK(seen.status == 4);
  CHECK(absent.status == 4);
  CHECK(seen.out.empty());
  CHECK(f.run({"usage", "--json"}, true, "other").json().at(0).at("builds") == json::value(0));
  CHECK(f.run({"usage", "--all"}, true, "other").status == 3);
  CHECK(f.run({"drain"}, true, "other").status == 3);
  CHECK(f.run({"undrain"}, true, "other").status == 3);
}

TEST_CASE("usage: builds, cpu, memory and storage are summed by day", "[server][admin]") {
  Fixture f;
  f.add("path", tests::nar_of_file("contents"));
  const auto stored = f.db->stored_bytes(f.account);
  for (int i = 0; i < 2; ++i) {
    const auto id = f.add_build("b.drv", model::BuildStatus::Built);
    auto record = *f.db->build(f.account, id);
    record.cpu_us = 5'000'000;
    record.stopped_us += i * 86'400'000'000;
    record.started_us += i * 86'400'000'000;
    f.db->update_build(record);
  }
  f.add_build("ours.drv", model::BuildStatus::MiscFailure);
  f.add_build("runs.drv", std::nullopt);
  const auto told = f.run({"usage", "--json"}).json().at(0);
  CHECK(told.at("account") == json::value("default"));
  CHECK(told.at("builds") == json::value(2));
  CHECK(told.at("cpuSeconds") == json::value(10.0));
  CHECK(told.at("memoryGibSeconds") == json::value(125.0));
  CHECK(told.at("storedBytes") == json::value(stored));
  REQUIRE(told.at("days").as_array().size() == 2);
  CHECK(told.at("days").at(0).at("day") == json::value("2023-11-14"));
  CHECK(told.at("days").at(1).at("builds") == json::value(1));
  const auto part = f.run({"usage", "--json", "--from", "2023-11-15"}).json().at(0);
  CHECK(part.at("builds") == json::value(1));
  const auto text = f.run({"usage"}).out;
  CHECK(text.starts_with("ACCOUNT  DAY"));
  CHECK(text.find("default  total            2") != std::string::npos);
  CHECK(f.run({"usage", "--from", "yesterday"}).status == 2);
  CHECK(f.run({"usage", "--by", "week"}).status == 2);
  auto tagged = *f.db->build(f.account, 1);
  tagged.tags = {"TEAM:web"};
  tagged.ssh_key = "5";
  f.db->update_build(tagged);
  CHECK(f.run({"usage", "--by", "tag"}).out.find("TEAM:web") != std::string::npos);
  CHECK(f.run({"usage", "--by", "key"}).out.starts_with("ACCOUNT  KEY"));
  CHECK(f.run({"usage", "--json"}).json().at(0).at("keys").as_array().size() == 2);
  f.db->ensure_account("other");
  CHECK(f.run({"usage", "--json", "--all"}).json().as_array().size() == 2);
}

namespace {

/// Whether a build gets its machine at once.
aio::Task<void> ask(build::LeaseDesk& leases, bool& granted) {
  static scheduler::BuildId last = 0;
  scheduler::BuildRequest request;
  request.id = ++last;
  request.account = "1";
  request.name = "thing-1";
  request.platform = "x86_64-linux";
  request.bounds.max_cpus = 1;
  request.bounds.default_cpus = 1;
  request.bounds.min_memory = 256 * kMiB;
  request.bounds.max_memory = 512 * kMiB;
  request.bounds.default_memory_per_cpu = 256 * kMiB;
  std::function<bool()> at_once = [] {
    return true;
  };
  try {
    auto lease = co_await leases.acquire(std::move(request), std::move(at_once));
    granted = lease.granted();
  } catch (const Error&) {
    granted = false;
  }
}

} // namespace

TEST_CASE("drain: nothing new starts until it is taken back", "[server][admin]") {
  Fixture f;
  build::LeaseDesk leases({}, {{"local", 2, kGiB, {"x86_64-linux"}, {}}}, f.clock);
  f.parts.leases = &leases;
  const auto starts = [&] {
    bool granted = false;
    test::run_task(f.io, ask(leases, granted));
    return granted;
  };
  CHECK(starts());
  const auto drained = f.run({"drain", "--wait"});
  CHECK(drained.status == 0);
  CHECK(drained.out == "no more builds are started; 0 run, 0 wait\n");
  CHECK_FALSE(starts());
  CHECK_FALSE(leases.refuses());
  CHECK(f.run({"drain", "--refuse"}).out ==
        "no more builds are started, new sessions go elsewhere; 0 run, 0 wait\n");
  CHECK(leases.refuses());
  CHECK(f.run({"undrain"}).out == "builds are started again\n");
  CHECK_FALSE(leases.refuses());
  CHECK(starts());
}

} // namespace admin_service_test
