#include "fixture.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <thread>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

TEST_CASE("store: what is imported comes out the same", "[store][roundtrip]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const std::string big(3'000'000, 'q');
  for (const auto& nar : {nar_of_file(""),
                          nar_of_file("hello"),
                          nar_of_file("#!/bin/sh", true),
                          nar_of_file(std::string(4096, 'x')),
                          nar_of_file(big),
                          nar_of_tree(0, ""),
                          nar_of_tree(50, "text"),
                          nar_of_tree(700, "")}) {
    for (const std::size_t piece : {std::size_t{1'000'000}, std::size_t{777}}) {
      const auto path = path_named("x" + std::to_string(nar.size()) + "-" + std::to_string(piece));
      auto import = ports.store->begin_import(ports.account, request_for(path, nar));
      CHECK(feed(import, nar, piece) == nar.size());
      CHECK(import.complete());
      const auto info = import.seal();
      CHECK(ports.db->valid_paths(ports.account, {&path, 1}).empty());
      ports.store->commit(ports.account, {&info, 1});
      CHECK(info.registration_time == ports.clock.seconds);
      auto source = ports.store->open_export(ports.account, path);
      CHECK(source.info() == info);
      CHECK(nar_of(source) == nar);
    }
  }
  CHECK(ports.store->verify(ports.account, {}).empty());
  ports.close();
  CHECK(ports.drafts() == 0);
}

TEST_CASE("store: contents, names and nothing else survive a restart", "[store]") {
  Ports ports(Kind::Files);
  const auto nar = nar_of_tree(20, "kept");
  add(*ports.store, ports.account, request_for(path_named("kept"), nar), nar);
  {
    auto sealed = ports.store->begin_import(ports.account,
                                            request_for(path_named("sealed"), nar_of_file("s")));
    feed(sealed, nar_of_file("s"));
    CHECK(sealed.seal().nar_size > 0);
  }
  ports.reopen();
  CHECK(ports.drafts() == 0);
  CHECK(ports.segment_count() == 1);
  CHECK(ports.db->all_paths(ports.account) == model::StorePaths{path_named("kept")});
  auto source = ports.store->open_export(ports.account, path_named("kept"));
  CHECK(nar_of(source) == nar);
}

TEST_CASE("store: without an announcement the end is found in the bytes", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto nar = nar_of_tree(5, "stream");
  ImportRequest request = request_for(path_named("stream"), nar);
  request.nar_hash.reset();
  request.nar_size.reset();
  auto import = ports.store->begin_import(ports.account, request);
  CHECK(feed(import, nar + "what follows", 1000) == nar.size());
  CHECK(import.complete());
  const auto info = import.seal();
  CHECK(info.nar_size == nar.size());
  CHECK(info.nar_hash == hash_of(HashAlgorithm::Sha256, bytes_of(nar)));
  CHECK(code_of([&] { static_cast<void>(import.seal()); }) == "store.sealed");
}

TEST_CASE("store: wrong announcements are refused and leave nothing", "[store][reject]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto nar = nar_of_file("contents");
  const auto good = request_for(path_named("x"), nar);
  const auto attempt = [&](const ImportRequest& request, std::string_view bytes) {
    return code_of([&] {
      auto import = ports.store->begin_import(ports.account, request);
      feed(import, bytes, 50);
      static_cast<void>(import.seal());
    });
  };
  auto request = good;
  request.nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of("other"));
  CHECK(attempt(request, nar) == "store.nar-hash");
  request.nar_hash = hash_of(HashAlgorithm::Sha1, bytes_of("other"));
  CHECK(attempt(request, nar) == "store.nar-hash");
  request = good;
  request.nar_size = 0;
  CHECK(attempt(request, nar) == "store.nar-size");
  request.nar_size = nar.size() - 8;
  CHECK(attempt(request, nar) == "store.nar-size");
  // Bytes after the archive's end, inside the announced size.
  request.nar_size = nar.size() + 8;
  CHECK(attempt(request, nar + "12345678") == "store.nar-size");
  CHECK(attempt(good, nar.substr(0, nar.size() - 1)) == "nar.truncated");
  CHECK(attempt(good, "") == "nar.truncated");
  CHECK(attempt(good, std::string(200, 'x')) == "nar.syntax");
  request = good;
  request.content_address = "fixed:r:sha256:1";
  CHECK(attempt(request, nar) == "store.content-address");
  CHECK(ports.segment_count() == 0);
  CHECK(ports.drafts() == 0);
  CHECK(attempt(good, nar).empty());
}

TEST_CASE("store: an invalid reference is refused and leaves nothing", "[store][reject]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  CHECK(code_of([&] { add_path(ports, "x", {path_named("absent")}); }) ==
        "store.invalid-reference");
  CHECK(ports.segment_count() == 0);
  CHECK(ports.drafts() == 0);
  CHECK(ports.db->all_paths(ports.account).empty());
  const auto unknown = info_for("never-imported");
  CHECK(code_of([&] {
          ports.store->commit(ports.account, {&unknown, 1});
        }) == "store.missing-segment");
}

TEST_CASE("store: a path that is valid already takes its bytes and stays", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto first = add_path(ports, "x");
  const auto other = nar_of_file("something else");
  // Announced: the bytes are only counted, whatever they are.
  auto import = ports.store->begin_import(ports.account, request_for(first.path, other));
  CHECK(feed(import, std::string(other.size(), '?'), 13) == other.size());
  CHECK(import.complete());
  auto info = import.seal();
  CHECK(info == first);
  ports.store->commit(ports.account, {&info, 1});
  // Not announced: the archive's end is found.
  auto request = request_for(first.path, other);
  request.nar_size.reset();
  request.nar_hash.reset();
  auto stream = ports.store->begin_import(ports.account, request);
  CHECK(feed(stream, other + "tail") == other.size());
  CHECK(stream.seal() == first);
  auto cut = ports.store->begin_import(ports.account, request_for(first.path, other));
  feed(cut, other.substr(0, 10));
  CHECK(code_of([&] { static_cast<void>(cut.seal()); }) == "nar.truncated");
  CHECK(ports.segment_count() == 1);
}

TEST_CASE("store: two imports of one path at once both succeed", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto one = nar_of_file("one result");
  const auto two = nar_of_file("another result");
  auto first = ports.store->begin_import(ports.account, request_for(path_named("x"), one));
  auto second = ports.store->begin_import(ports.account, request_for(path_named("x"), two));
  feed(first, one);
  feed(second, two);
  const auto a = first.seal();
  const auto b = second.seal();
  ports.store->commit(ports.account, {&a, 1});
  ports.store->commit(ports.account, {&b, 1});
  CHECK(ports.db->path_info(ports.account, path_named("x")) == a);
  CHECK(ports.segment_count() == 2);
  CHECK(ports.store->collect_garbage(ports.account, {&a.path, 1}).paths_removed == 0);
  CHECK(ports.segment_count() == 1);
  CHECK(ports.store->verify(ports.account, {}).empty());
}

TEST_CASE("store: eight threads import and register", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 15; ++i) {
        // Every second one is the same for all: they race.
        const auto name =
            i % 2 == 0 ? std::to_string(i) : std::to_string(t) + "-" + std::to_string(i);
        try {
          const auto nar = nar_of_tree(static_cast<std::size_t>(i), name);
          add(*ports.store, ports.account, request_for(path_named(name), nar), nar);
        } catch (const Error&) {
          ++failures;
        }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(failures == 0);
  CHECK(ports.db->all_paths(ports.account).size() == 8 + 8 * 7);
  CHECK(ports.store->verify(ports.account, {}).empty());
}

TEST_CASE("store: references are scanned for", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto used = add_path(ports, "used").path;
  const auto unused = add_path(ports, "unused").path;
  const auto own = path_named("own");
  const auto nar = nar_of_file("see /nix/store/" + used.base_name() + " and " + own.base_name());
  auto request = request_for(own, nar, {unused});
  request.scan_for = {own, unused, used};
  const auto info = add(*ports.store, ports.account, request, nar);
  model::StorePaths expected{used, own};
  model::sort_unique(expected);
  CHECK(info.references == expected);
  CHECK(ports.db->path_info(ports.account, own)->references == expected);
}

TEST_CASE("store: accounts share contents and see nothing of each other", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto other = ports.db->ensure_account("other");
  const auto nar = nar_of_file("shared");
  const auto path = path_named("shared");
  add(*ports.store, ports.account, request_for(path, nar), nar);
  CHECK(code_of([&] { static_cast<void>(ports.store->open_export(other, path)); }) ==
        "store.invalid-path");
  add(*ports.store, other, request_for(path, nar), nar);
  CHECK(ports.segment_count() == 1);
  CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 1);
  CHECK(ports.segment_count() == 1);
  auto source = ports.store->open_export(other, path);
  CHECK(nar_of(source) == nar);
  CHECK(ports.store->collect_garbage(other, {}).bytes_freed > 0);
  CHECK(ports.segment_count() == 0);
  // Open ones stay readable.
  CHECK(source.metadata().size() > 0);
}

TEST_CASE("store: another account's contents can be named without an upload", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto other = ports.db->ensure_account("other");
  const auto info = add_path(ports, "built");
  ports.store->commit(other, {&info, 1});
  CHECK(ports.store->verify(other, {}).empty());
}

TEST_CASE("store: a collection takes what it is told, or so much as is enough", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto code_of = [&](const GcOrder& order) -> std::string {
    try {
      ports.store->collect(ports.account, order);
    } catch (const Error& error) {
      return std::string(error.code());
    }
    return "none";
  };
  const auto low = add_path(ports, "low").path;
  const auto middle = add_path(ports, "middle", {low}).path;
  const auto high = add_path(ports, "high", {middle, path_named("high")}).path;
  const auto other = add_path(ports, "other", {low}).path;
  model::StorePaths everything{low, middle, high, other};
  model::sort_unique(everything);
  {
    auto lease = ports.store->lease(ports.account);
    lease.add(other);
    model::StorePaths live{low, other};
    model::sort_unique(live);
    CHECK(ports.store->live_paths(ports.account, {}) == live);
    CHECK(ports.store->leased_paths(ports.account) == model::StorePaths{other});
    CHECK(code_of({.only = model::StorePaths{low}}) == "store.in-use");
    CHECK(code_of({.only = model::StorePaths{other}}) == "store.in-use");
  }
  CHECK(ports.store->live_paths(ports.account, {}).empty());
  CHECK(code_of({.only = model::StorePaths{path_named("nowhere")}}) == "store.invalid-path");
  CHECK(code_of({.only = model::StorePaths{middle}, .with_referrers = false}) ==
        "store.referenced");
  CHECK(ports.db->all_paths(ports.account) == everything);
  // One byte is enough: one path goes, and one to which nothing refers.
  const auto one = ports.store->collect(ports.account, {.enough_bytes = 1});
  REQUIRE(one.removed.size() == 1);
  CHECK((one.removed.front() == high || one.removed.front() == other));
  CHECK(ports.store->collect(ports.account, {.enough_bytes = 0}).removed.empty());
  const auto rest = ports.store->collect(ports.account, {.only = model::StorePaths{low}});
  CHECK(rest.paths_removed == 3);
  CHECK(rest.bytes_freed > 0);
  CHECK(ports.db->all_paths(ports.account).empty());
}

TEST_CASE("store: collection spares leases, roots and what they need", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto low = add_path(ports, "low").path;
  const auto middle = add_path(ports, "middle", {low}).path;
  const auto high = add_path(ports, "high", {middle, path_named("high")}).path;
  const auto rooted = add_path(ports, "rooted").path;
  const auto trash = add_path(ports, "trash", {low}).path;
  auto lease = ports.store->lease(ports.account);
  lease.add(middle);
  lease.add(middle);
  auto result = ports.store->collect_garbage(ports.account, {&rooted, 1});
  CHECK(result.paths_removed == 2);
  CHECK(result.bytes_freed > 0);
  model::StorePaths left{low, middle, rooted};
  model::sort_unique(left);
  CHECK(ports.db->all_paths(ports.account) == left);
  CHECK(ports.segment_count() == 3);
  // Two leases on one path: it is kept until both are gone.
  {
    auto second = ports.store->lease(ports.account);
    second.add(left);
    lease = Lease();
    lease.add(middle); // an empty lease holds nothing
    CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 0);
  }
  CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 3);
  CHECK(ports.segment_count() == 0);
  CHECK(ports.store->verify(ports.account, {}).empty());
}

TEST_CASE("store: collection spares imports on their way", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto low = add_path(ports, "low").path;
  const auto nar = nar_of_file("new");
  auto import =
      ports.store->begin_import(ports.account, request_for(path_named("new"), nar, {low}));
  CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 0);
  feed(import, nar);
  CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 0);
  const auto info = import.seal();
  // The import itself may be gone before its path is registered.
  { const auto gone = std::move(import); }
  CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 0);
  CHECK(ports.segment_count() == 2);
  ports.store->commit(ports.account, {&info, 1});
  CHECK(ports.store->verify(ports.account, {}).empty());
  CHECK(ports.store->collect_garbage(ports.account, {}).paths_removed == 2);
  CHECK(ports.segment_count() == 0);
}

TEST_CASE("store: what was sealed and forgotten is collected after an hour", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  {
    const auto nar = nar_of_file("forgotten");
    auto import = ports.store->begin_import(ports.account, request_for(path_named("f"), nar));
    feed(import, nar);
    static_cast<void>(import.seal());
  }
  ports.clock.seconds += 3599;
  ports.store->collect_garbage(ports.account, {});
  CHECK(ports.segment_count() == 1);
  ports.clock.seconds += 1;
  ports.store->collect_garbage(ports.account, {});
  CHECK(ports.segment_count() == 0);
  CHECK(ports.drafts() == 0);
}

TEST_CASE("store: collecting while others import loses nothing", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  std::atomic<bool> done = false;
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto lease = ports.store->lease(ports.account);
      for (int i = 0; i < 25; ++i) {
        try {
          // The same contents come and go all the time.
          const auto nar = nar_of_file("contents " + std::to_string(i % 3));
          const auto path = path_named(std::to_string(t) + "-" + std::to_string(i));
          if (i % 2 == 0) {
            lease.add(path);
          }
          add(*ports.store, ports.account, request_for(path, nar), nar);
          if (i % 2 == 0) {
            auto source = ports.store->open_export(ports.account, path);
            failures += nar_of(source) == nar ? 0 : 1;
          }
        } catch (const Error& error) {
          UNSCOPED_INFO(error.what());
          ++failures;
        }
      }
    });
  }
  std::thread collector([&] {
    while (!done) {
      ports.store->collect_garbage(ports.account, {});
    }
  });
  for (auto& thread : threads) {
    thread.join();
  }
  done = true;
  collector.join();
  CHECK(failures == 0);
  CHECK(ports.store->verify(ports.account, {}).empty());
  ports.store->collect_garbage(ports.account, {});
  CHECK(ports.db->all_paths(ports.account).empty());
  CHECK(ports.segment_count() == 0);
}

TEST_CASE("store: verify finds what is missing", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto good = add_path(ports, "good");
  const auto bad = add_path(ports, "bad");
  ports.segments->remove(bad.nar_hash);
  const auto findings = ports.store->verify(ports.account, {});
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].path == bad.path);
  CHECK(findings[0].code == "store.missing-segment");
  const auto absent = path_named("absent");
  CHECK(ports.store->verify(ports.account, {&absent, 1}).at(0).code == "store.invalid-path");
  CHECK(ports.store->verify(ports.account, {&good.path, 1}).empty());
  CHECK(code_of([&] { static_cast<void>(ports.store->open_export(ports.account, bad.path)); }) ==
        "store.missing-segment");
}

TEST_CASE("store: verify finds contents and sizes that changed", "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  auto wrong_hash = add_path(ports, "a");
  // Registered under wrong figures: as if the blob had changed.
  wrong_hash.path = path_named("wrong-size");
  ++wrong_hash.nar_size;
  ports.db->register_paths(ports.account, {&wrong_hash, 1});
  const auto findings = ports.store->verify(ports.account, {&wrong_hash.path, 1});
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].code == "store.nar-size");
}
