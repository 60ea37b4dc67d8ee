#include "fixture.hpp"
#include "support/traced_process.hpp"

#include <catch2/catch.hpp>
#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <set>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

namespace fs = std::filesystem;

/// A small path, a large one that refers to it, one that nothing needs, and a collection. What is
/// committed is told through `acknowledged`.
void work_on(const fs::path& dir, const std::string& round, int acknowledged) {
  const ManualClock clock;
  const auto db = open_sqlite_metadata(dir / "metadata.sqlite");
  const auto segments = open_file_segments(dir);
  Store store(*db, *segments, clock, model::StoreDir());
  const auto account = db->ensure_account("default");
  auto lease = store.lease(account);
  const auto put =
      [&](const std::string& name, const std::string& nar, model::StorePaths references) {
        const auto path = path_named(name);
        lease.add(path);
        add(store, account, request_for(path, nar, std::move(references)), nar);
        const auto line = name + "\n";
        if (::write(acknowledged, line.data(), line.size()) < 0) {
          throw_system_error("test.pipe", "acknowledging");
        }
      };
  put("small-" + round, nar_of_file("small " + round), {});
  put("large-" + round,
      nar_of_file("large " + round + std::string(2'500'000, 'x')),
      {path_named("small-" + round)});
  const auto trash = nar_of_file("trash " + round + std::string(5000, 'x'));
  add(store, account, request_for(path_named("trash-" + round), trash), trash);
  store.collect_garbage(account, {});
}

std::set<std::string> stems_below(const fs::path& dir, std::string_view extension) {
  std::set<std::string> stems;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    if (entry.path().extension() == extension) {
      stems.insert(entry.path().stem().string());
    }
  }
  return stems;
}

/// Opens what the dead process left; returns the first thing that is wrong with it.
std::string flaw_in(const fs::path& dir, const std::vector<std::string>& acknowledged) {
  const ManualClock clock;
  const auto db = open_sqlite_metadata(dir / "metadata.sqlite");
  const auto segments = open_file_segments(dir);
  Store store(*db, *segments, clock, model::StoreDir());
  if (!fs::is_empty(dir / "drafts")) {
    return "drafts are left";
  }
  const auto metadata = stems_below(dir / "segments", ".meta");
  for (const auto& data : stems_below(dir / "segments", ".data")) {
    if (!metadata.contains(data)) {
      return "data without metadata: " + data;
    }
  }
  const auto account = db->ensure_account("default");
  for (const auto& finding : store.verify(account, {})) {
    return finding.path.base_name() + ": " + finding.message;
  }
  for (const auto& name : acknowledged) {
    const auto path = path_named(name);
    if (db->valid_paths(account, {&path, 1}).empty()) {
      return name + " was acknowledged and is gone";
    }
  }
  store.collect_garbage(account, {});
  std::size_t left = 0;
  segments->visit([&](const Hash&) { ++left; });
  return left == 0 ? "" : "a collection leaves segments that nobody names";
}

std::vector<std::string> lines_of(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(count));
  }
  std::vector<std::string> lines;
  for (std::size_t end = 0; (end = text.find('\n')) != std::string::npos;) {
    lines.push_back(text.substr(0, end));
    text.erase(0, end + 1);
  }
  return lines;
}

/// One process from start to its death at a system call, and what it left.
std::optional<tests::Traced> round(const fs::path& dir, std::size_t limit, std::string& flaw) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    throw_system_error("test.pipe", "making a pipe");
  }
  const UniqueFd read(ends[0]);
  UniqueFd write(ends[1]);
  const auto outcome =
      tests::run_killed_at(limit, [&] { work_on(dir, std::to_string(limit), write.get()); });
  write.reset();
  if (outcome) {
    flaw = outcome->failed() ? "the child failed" : flaw_in(dir, lines_of(read.get()));
  }
  return outcome;
}

} // namespace

TEST_CASE("store: a process killed at any system call leaves a sound store",
          "[store][fault][slow]") {
  const TemporaryDir dir;
  std::string flaw;
  const auto whole = round(dir.path(), SIZE_MAX, flaw);
  if (!whole) {
    WARN("skipped: processes may not be traced here");
    return;
  }
  REQUIRE(flaw.empty());
  REQUIRE_FALSE(whole->killed);
  REQUIRE(whole->stops > 100);
  // Points spread over the whole run by a stride that is prime, so that a slow machine, which does
  // fewer rounds, leaves no part of it out.
  constexpr std::size_t kRounds = 150;
  constexpr std::size_t kStride = 7919;
  constexpr std::chrono::seconds kEnough{40};
  const auto start = std::chrono::steady_clock::now();
  std::size_t kills = 0;
  for (std::size_t i = 0; i < std::min(kRounds, whole->stops); ++i) {
    const std::size_t limit = 1 + i * kStride % whole->stops;
    const auto outcome = round(dir.path(), limit, flaw);
    INFO("killed at system call " << limit << " of " << whole->stops);
    REQUIRE(outcome);
    REQUIRE(flaw.empty());
    kills += outcome->killed ? 1U : 0U;
    if (std::chrono::steady_clock::now() - start > kEnough) {
      break;
    }
  }
  std::cout << "# killed " << kills << " times, of " << whole->stops << " system calls\n";
  CHECK(kills > 20);
}
