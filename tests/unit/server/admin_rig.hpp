#pragma once

#include "support/fake_executor.hpp"
#include "support/run_task.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/server/admin.hpp>
#include <nixbuild/store/memory.hpp>

#include <boost/asio/this_coro.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

/// The daemon's parts in memory, and administration commands run on them.
namespace nixbuild::test {

class TestClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override {
    return std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now()) +
           ahead;
  }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return std::chrono::steady_clock::now();
  }

  std::chrono::seconds ahead{0};
};

inline UniqueFd memory_file() {
  return UniqueFd(::memfd_create("admin-test", MFD_CLOEXEC));
}

inline std::string contents_of(int fd) {
  std::string text(static_cast<std::size_t>(::lseek(fd, 0, SEEK_END)), '\0');
  REQUIRE(::pread(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  return text;
}

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;

  [[nodiscard]] boost::json::value json() const { return boost::json::parse(out); }
};

inline aio::Task<void> run_one(const server::SessionParts& parts,
                               server::Handoff handoff,
                               std::shared_ptr<std::array<UniqueFd, 3>> fds,
                               int& status) {
  const auto here = co_await boost::asio::this_coro::executor;
  auto in = std::make_shared<aio::ByteStream>(here, std::move((*fds)[0]));
  auto out = std::make_shared<aio::ByteStream>(here, std::move((*fds)[1]));
  auto err = std::make_shared<aio::ByteStream>(here, std::move((*fds)[2]));
  status = co_await server::run_admin_command(
      parts, std::move(handoff), std::move(in), std::move(out), std::move(err));
}

/// A daemon's parts in memory.
struct Fixture {
  boost::asio::io_context io;
  aio::BlockingPool pool{2};
  TestClock clock;
  NullLog log;
  std::unique_ptr<store::MetadataDb> db = store::make_memory_metadata();
  std::unique_ptr<store::SegmentStore> segments = store::make_memory_segments();
  std::unique_ptr<store::LogStore> logs = store::make_memory_logs();
  store::Store store{*db, *segments, clock, model::StoreDir()};
  store::AccountId account = db->ensure_account("default");
  tests::FakeExecutor executor{io.get_executor(), [](const auto&) {
                                 return tests::FakeBuild{};
                               }};
  build::LeaseDesk leases{{}, {}, clock};
  build::Builder builder{{store, *logs, executor, leases, pool, clock, log, nullptr}, {}};
  aio::TaskGroup tasks{io.get_executor(), log};
  build::SharedBuilds builds{builder, tasks};
  server::AccountDesk::Settings desk_settings;
  server::AccountDesk desk;
  server::SessionParts parts{store, *logs, builds, pool, log, clock, &desk, &leases};

  explicit Fixture(server::AccountDesk::Settings settings = {})
      : desk_settings(std::move(settings)), desk(*db, clock, desk_settings) {}

  server::Handoff as; ///< key and environment of what is run next

  ~Fixture() { pool.join(); }

  /// With a standard input.
  Outcome feed(const std::string& input, std::vector<std::string> words, bool limited) {
    auto fds = std::make_shared<std::array<UniqueFd, 3>>();
    (*fds)[0] = memory_file();
    REQUIRE(::pwrite((*fds)[0].get(), input.data(), input.size(), 0) ==
            static_cast<ssize_t>(input.size()));
    return run_with(std::move(words), limited, "default", std::move(fds));
  }

  Outcome run(std::vector<std::string> words, bool limited = false, std::string who = "default") {
    auto fds = std::make_shared<std::array<UniqueFd, 3>>();
    (*fds)[0].reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    return run_with(std::move(words), limited, std::move(who), std::move(fds));
  }

  Outcome run_with(std::vector<std::string> words,
                   bool limited,
                   std::string who,
                   std::shared_ptr<std::array<UniqueFd, 3>> fds) {
    const auto out = memory_file();
    const auto err = memory_file();
    (*fds)[1] = out.duplicate();
    (*fds)[2] = err.duplicate();
    server::Handoff handoff = as;
    handoff.kind = server::HandoffKind::Admin;
    handoff.limited = limited;
    handoff.account = std::move(who);
    handoff.arguments = std::move(words);
    Outcome outcome;
    test::run_task(io, run_one(parts, std::move(handoff), std::move(fds), outcome.status));
    outcome.out = contents_of(out.get());
    outcome.err = contents_of(err.get());
    return outcome;
  }

  model::PathInfo add(const std::string& name,
                      const std::string& nar,
                      model::StorePaths references = {},
                      std::string who = "default",
                      std::int64_t registered = 0) {
    const auto id = db->ensure_account(who);
    const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of(name));
    const model::StorePath path(digest.bytes().first(20), name);
    auto import = store.begin_import(id,
                                     {.path = path,
                                      .deriver = {},
                                      .nar_hash = {},
                                      .nar_size = {},
                                      .references = std::move(references),
                                      .registration_time = registered,
                                      .signatures = {},
                                      .content_address = {},
                                      .scan_for = {}});
    REQUIRE(import.feed(bytes_of(nar)) == nar.size());
    auto info = import.seal();
    store.commit(id, {&info, 1});
    return info;
  }

  std::int64_t add_build(const std::string& name, std::optional<model::BuildStatus> status) {
    store::BuildRecord record;
    record.account = account;
    record.derivation = name;
    record.platform = "x86_64-linux";
    record.status = status;
    record.created_us = 1'700'000'000'000'000;
    record.started_us = 1'700'000'001'000'000;
    record.stopped_us = status ? 1'700'000'063'500'000 : 0;
    record.cpus = 2;
    record.memory_bytes = kGiB;
    record.phases = R"({"boot":1500000})";
    return db->add_build(record);
  }
};

} // namespace nixbuild::test
