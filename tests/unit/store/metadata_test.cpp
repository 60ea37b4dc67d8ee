#include "fixture.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <iostream>
#include <random>
#include <thread>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

void put(Database& base, AccountId account, const model::PathInfo& info) {
  base.db->register_paths(account, {&info, 1});
}

} // namespace

TEST_CASE("metadata: accounts are made once, listed, and removed", "[store]") {
  Database base(GENERATE(false, true));
  CHECK(base.db->ensure_account("alice") == base.a);
  CHECK(base.db->find_account("bob") == base.b);
  CHECK_FALSE(base.db->find_account("carol"));
  CHECK(base.db->accounts().size() == 2);
  CHECK(base.db->accounts().front().name == "alice");
  put(base, base.a, info_for("x"));
  base.db->remove_account(base.a);
  CHECK_FALSE(base.db->find_account("alice"));
  CHECK(base.db->all_paths(base.a).empty());
  CHECK(code_of([&] { base.db->remove_account(base.a); }) == "account.unknown");
  // A number is never given to somebody else.
  CHECK(base.db->ensure_account("alice") != base.a);
  CHECK(code_of([&] { put(base, base.a, info_for("x")); }) == "account.unknown");
}

TEST_CASE("metadata: account names out of the rule are refused", "[store][reject]") {
  Database base(GENERATE(false, true));
  for (const auto& name : {std::string(),
                           std::string("-a"),
                           std::string("A"),
                           std::string("a b"),
                           std::string("a/b"),
                           std::string(64, 'a')}) {
    CHECK(code_of([&] { base.db->ensure_account(name); }) == "account.name");
  }
  CHECK(code_of([&] { base.db->ensure_account(std::string(63, 'a')); }).empty());
}

TEST_CASE("metadata: all fields of a path come back", "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  const auto dependency = info_for("dependency");
  put(base, base.a, dependency);
  auto info = info_for("full", {path_named("dependency"), path_named("full")});
  info.deriver = path_named("full.drv");
  info.nar_size = 1ULL << 40;
  info.ultimate = true;
  info.signatures = {"key-1:AAAA", "key-2:BBBB"};
  info.content_address = "fixed:r:sha256:abc";
  put(base, base.a, info);
  CHECK(base.db->path_info(base.a, info.path) == info);
  CHECK(base.db->path_info(base.a, dependency.path) == dependency);
  CHECK_FALSE(base.db->path_info(base.a, path_named("absent")));
  const std::vector<std::string> more{"key-2:BBBB", "key-3:CCCC"};
  base.db->add_signatures(base.a, info.path, more);
  CHECK(base.db->path_info(base.a, info.path)->signatures ==
        std::vector<std::string>{"key-1:AAAA", "key-2:BBBB", "key-3:CCCC"});
  CHECK(code_of([&] { base.db->add_signatures(base.a, path_named("absent"), more); }) ==
        "store.invalid-path");
}

TEST_CASE("metadata: questions about many paths keep the order asked", "[store]") {
  Database base(GENERATE(false, true));
  model::StorePaths asked;
  model::StorePaths expected;
  std::vector<model::PathInfo> infos;
  for (int i = 0; i < 300; ++i) {
    const auto name = "p" + std::to_string(i);
    asked.push_back(path_named(name));
    if (i % 3 != 0) {
      infos.push_back(info_for(name));
      expected.push_back(asked.back());
    }
  }
  base.db->register_paths(base.a, infos);
  CHECK(base.db->valid_paths(base.a, asked) == expected);
  model::StorePaths visited;
  base.db->path_infos(
      base.a, asked, [&](const model::PathInfo& info) { visited.push_back(info.path); });
  CHECK(visited == expected);
  auto sorted = expected;
  std::sort(sorted.begin(), sorted.end());
  CHECK(base.db->all_paths(base.a) == sorted);
  // Same hash part, other name: another path.
  const auto impostor = model::StorePath::parse(std::string(expected[0].hash_part()) + "-impostor");
  CHECK(base.db->valid_paths(base.a, {&impostor, 1}).empty());
  CHECK_FALSE(base.db->path_info(base.a, impostor));
  auto taken = info_for("p1");
  taken.path = impostor;
  CHECK(code_of([&] { put(base, base.a, taken); }) == "store.hash-part-taken");
  CHECK(base.db->path_of_hash_part(base.a, expected[0].hash_part()) == expected[0]);
  CHECK_FALSE(base.db->path_of_hash_part(base.a, path_named("absent").hash_part()));
  CHECK_FALSE(base.db->path_of_hash_part(base.a, "short"));
}

TEST_CASE("metadata: closure and referrers follow references", "[store]") {
  Database base(GENERATE(false, true));
  const auto a = path_named("a");
  const auto b = path_named("b");
  const auto c = path_named("c");
  // A cycle within one registration, a self reference, and an outsider.
  const std::vector<model::PathInfo> infos{
      info_for("a", {b}), info_for("b", {a, b, c}), info_for("c"), info_for("d", {c})};
  base.db->register_paths(base.a, infos);
  model::StorePaths expected{a, b, c};
  model::sort_unique(expected);
  CHECK(base.db->closure(base.a, {&a, 1}) == expected);
  CHECK(base.db->closure(base.a, {&c, 1}) == model::StorePaths{c});
  CHECK(base.db->closure(base.a, {}).empty());
  model::StorePaths of_c{b, path_named("d")};
  model::sort_unique(of_c);
  CHECK(base.db->referrers(base.a, c) == of_c);
  const auto absent = path_named("absent");
  CHECK(code_of([&] { base.db->closure(base.a, {&absent, 1}); }) == "store.invalid-path");
}

TEST_CASE("metadata: a registration with an invalid reference changes nothing", "[store][reject]") {
  Database base(GENERATE(false, true));
  const std::vector<model::PathInfo> infos{info_for("good"),
                                           info_for("bad", {path_named("absent")})};
  CHECK(code_of([&] { base.db->register_paths(base.a, infos); }) == "store.invalid-reference");
  CHECK(base.db->all_paths(base.a).empty());
  auto wrong = info_for("md5");
  wrong.nar_hash = hash_of(HashAlgorithm::Md5, bytes_of("x"));
  CHECK(code_of([&] { put(base, base.a, wrong); }) == "store.nar-hash");
}

TEST_CASE("metadata: a path that is valid already stays as it is", "[store]") {
  Database base(GENERATE(false, true));
  const auto first = info_for("x");
  put(base, base.a, first);
  auto second = first;
  second.nar_size = 99;
  second.references = {path_named("absent")};
  put(base, base.a, second);
  CHECK(base.db->path_info(base.a, first.path) == first);
}

TEST_CASE("metadata: removal refuses what others refer to", "[store][reject]") {
  Database base(GENERATE(false, true));
  const std::vector<model::PathInfo> infos{
      info_for("low"), info_for("high", {path_named("low"), path_named("high")})};
  base.db->register_paths(base.a, infos);
  const model::StorePaths both{path_named("low"), path_named("high")};
  CHECK(code_of([&] { base.db->remove_paths(base.a, {both.data(), 1}); }) == "store.referenced");
  CHECK(base.db->all_paths(base.a).size() == 2);
  CHECK(base.db->nar_hash_in_use(infos[0].nar_hash));
  base.db->remove_paths(base.a, both);
  CHECK(base.db->all_paths(base.a).empty());
  CHECK_FALSE(base.db->nar_hash_in_use(infos[0].nar_hash));
}

TEST_CASE("metadata: cpu time is what ended builds of one account held since a time", "[store]") {
  Database base(GENERATE(false, true));
  const auto put_build = [&](AccountId account, std::int64_t start, std::int64_t stop) {
    BuildRecord record;
    record.account = account;
    record.derivation = "x.drv";
    record.platform = "x86_64-linux";
    record.started_us = start;
    record.stopped_us = stop;
    record.cpus = 4;
    record.id = base.db->add_build(record);
    return record;
  };
  put_build(base.a, 100, 200);
  put_build(base.a, 900, 1100);
  put_build(base.a, 1000, 1050);
  put_build(base.a, 0, 1500);
  put_build(base.a, 1200, 0);
  auto reused = put_build(base.a, 1100, 1200);
  reused.reused = 1;
  base.db->update_build(reused);
  put_build(base.b, 1000, 2000);
  CHECK(base.db->cpu_time_us(base.a, 0) == 4 * (100 + 200 + 50));
  CHECK(base.db->cpu_time_us(base.a, 1000) == 4 * (200 + 50));
  CHECK(base.db->cpu_time_us(base.a, 3000) == 0);
  CHECK(base.db->cpu_time_us(base.b, 1000) == 4 * 1000);
}

TEST_CASE("metadata: old builds are forgotten, in steps, with what they are reused by",
          "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  const auto key = [](char c) {
    return hash_of(HashAlgorithm::Sha256, bytes_of(std::string_view(&c, 1)));
  };
  const auto ended = [&](AccountId account, std::int64_t stop, char c) {
    BuildRecord record;
    record.account = account;
    record.derivation = "x.drv";
    record.id = base.db->open_build(record, "request");
    record.status = model::BuildStatus::Built;
    record.stopped_us = stop;
    BuildOutcome outcome;
    outcome.key = key(c);
    outcome.account = account;
    outcome.build = record.id;
    outcome.outputs.push_back(info_for("made"));
    CHECK(base.db->end_build(record, {}, &outcome));
    return record.id;
  };
  BuildRecord running;
  running.account = base.a;
  running.derivation = "running.drv";
  running.id = base.db->open_build(running, "request");
  const auto first = ended(base.a, 100, 'a');
  const auto second = ended(base.b, 200, 'b');
  const auto third = ended(base.a, 300, 'c');
  CHECK(base.db->remove_builds(100, 10) == 0);
  CHECK(base.db->remove_builds(300, 1) == 1);
  CHECK_FALSE(base.db->build(base.a, first));
  CHECK_FALSE(base.db->find_outcome(base.a, key('a'), false));
  CHECK(base.db->find_outcome(base.b, key('b'), false));
  CHECK(base.db->remove_builds(300, 10) == 1);
  CHECK_FALSE(base.db->build(base.b, second));
  CHECK_FALSE(base.db->find_outcome(base.b, key('b'), false));
  CHECK(base.db->remove_builds(300, 10) == 0);
  CHECK(base.db->build(base.a, third));
  CHECK(base.db->find_outcome(base.a, key('c'), false)->outputs.size() == 1);
  CHECK(base.db->build(base.a, running.id));
  CHECK(base.db->open_builds().size() == 1);
}

TEST_CASE("metadata: realisations are found by key, belong to an account, and go with their paths",
          "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  const auto info = info_for("made");
  const auto other = info_for("other");
  const RealisationKey key{std::string(64, 'a'), "out"};
  const StoredRealisation made{key, {info.path, {"k:1"}}};
  CHECK(code_of([&] {
          base.db->register_realisations(base.a, {&made, 1});
        }) == "store.invalid-path");
  put(base, base.a, info);
  put(base, base.a, other);
  put(base, base.b, info);
  base.db->register_realisations(base.a, {&made, 1});
  CHECK(base.db->realisation(base.a, key) == made.realisation);
  CHECK_FALSE(base.db->realisation(base.b, key));
  CHECK_FALSE(base.db->realisation(base.a, {key.derivation, "dev"}));
  CHECK_FALSE(base.db->realisation(base.a, {key.derivation, "out", model::SelfReferences::Plain}));

  const StoredRealisation again{key, {info.path, {"k:2"}}};
  base.db->register_realisations(base.a, {&again, 1});
  CHECK(base.db->realisation(base.a, key)->signatures == std::vector<std::string>{"k:1", "k:2"});
  const StoredRealisation elsewhere{key, {other.path, {}}};
  base.db->register_realisations(base.a, {&elsewhere, 1});
  CHECK(base.db->realisation(base.a, key)->path == info.path);

  base.db->remove_paths(base.a, {&info.path, 1});
  CHECK_FALSE(base.db->realisation(base.a, key));
  base.db->register_realisations(base.b, {&made, 1});
  base.db->remove_account(base.b);
  CHECK_FALSE(base.db->realisation(base.b, key));
}

TEST_CASE("metadata: what the asker's session did stays with the build", "[store]") {
  Database base(GENERATE(false, true));
  BuildRecord record;
  record.account = base.a;
  record.session = {{1, 2}, {3, 4}, {0, 0}, {}};
  record.id = base.db->open_build(record, "asked");
  CHECK(base.db->build(base.a, record.id)->session == record.session);
  auto ended = record;
  ended.session = {};
  ended.status = model::BuildStatus::Built;
  base.db->update_build(ended);
  CHECK(base.db->build(base.a, record.id)->session == record.session);
  base.db->note_sent(base.b, record.id, {5, 6});
  base.db->note_sent(base.a, record.id + 1, {5, 6});
  CHECK(base.db->build(base.a, record.id)->session.send == TimeSpan());
  base.db->note_sent(base.a, record.id, {5, 6});
  record.session.send = {5, 6};
  CHECK(base.db->build(base.a, record.id)->session == record.session);
  CHECK(base.db->open_builds().front().record.session == record.session);
}

TEST_CASE("metadata: accounts see nothing of each other", "[store]") {
  Database base(GENERATE(false, true));
  const auto x = info_for("x");
  put(base, base.a, x);
  CHECK(base.db->valid_paths(base.b, {&x.path, 1}).empty());
  CHECK_FALSE(base.db->path_info(base.b, x.path));
  CHECK_FALSE(base.db->path_of_hash_part(base.b, x.path.hash_part()));
  CHECK(base.db->all_paths(base.b).empty());
  CHECK(base.db->referrers(base.b, x.path).empty());
  CHECK(code_of([&] { base.db->closure(base.b, {&x.path, 1}); }) == "store.invalid-path");
  CHECK(code_of([&] { put(base, base.b, info_for("y", {x.path})); }) == "store.invalid-reference");
  BuildRecord record;
  record.account = base.a;
  const auto id = base.db->add_build(record);
  CHECK_FALSE(base.db->build(base.b, id));
  CHECK(base.db->builds(base.b, 10).empty());
  record.id = id;
  record.account = base.b;
  CHECK(code_of([&] { base.db->update_build(record); }) == "build.unknown");
  put(base, base.b, x);
  base.db->remove_paths(base.b, {&x.path, 1});
  CHECK(base.db->valid_paths(base.a, {&x.path, 1}).size() == 1);
}

TEST_CASE("metadata: builds are remembered, newest first", "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  BuildRecord record;
  record.account = base.a;
  record.derivation = "d.drv";
  record.platform = "x86_64-linux";
  record.created_us = 5;
  const auto first = base.db->add_build(record);
  const auto second = base.db->add_build(record);
  CHECK(first < second);
  CHECK_FALSE(base.db->build(base.a, first)->status);
  record.id = first;
  record.status = model::BuildStatus::TimedOut;
  record.error = std::string("with a \0 byte", 13);
  record.started_us = 6;
  record.stopped_us = 7;
  record.cpus = 8;
  record.memory_bytes = 9;
  record.peak_memory_bytes = 10;
  record.cpu_us = 11;
  record.log_bytes = 12;
  record.accelerator = "kvm";
  record.phases = R"({"boot":1})";
  record.attempt = 2;
  record.key = hash_of(HashAlgorithm::Sha256, bytes_of("key"));
  record.reused = 13;
  record.of_another = true;
  base.db->update_build(record);
  const auto back = base.db->build(base.a, first);
  REQUIRE(back);
  CHECK(back->status == model::BuildStatus::TimedOut);
  CHECK(back->error == record.error);
  CHECK(back->started_us == 6);
  CHECK(back->stopped_us == 7);
  CHECK(back->cpus == 8);
  CHECK(back->memory_bytes == 9);
  CHECK(back->peak_memory_bytes == 10);
  CHECK(back->cpu_us == 11);
  CHECK(back->log_bytes == 12);
  CHECK(back->accelerator == "kvm");
  CHECK(back->phases == record.phases);
  CHECK(back->attempt == 2);
  CHECK(back->key == record.key);
  CHECK(back->reused == 13);
  CHECK(back->of_another);
  CHECK(base.db->builds(base.a, 10).front().id == second);
  CHECK(base.db->builds(base.a, 1).size() == 1);
}

TEST_CASE("metadata: an open build is ended once, and only by its newest attempt",
          "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  BuildRecord record;
  record.account = base.a;
  record.derivation = "d.drv";
  record.key = hash_of(HashAlgorithm::Sha256, bytes_of("key"));
  record.tags = {"PR:7", "TEAM:web:a b"};
  record.ssh_key = "12";
  record.disk_bytes = 3 * kGiB;
  record.output_bytes = 5 * kGiB;
  const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of("nar"));
  record.outputs = {{"dev", path_named("d-dev"), digest, 7}, {"out", path_named("d"), digest, 3}};
  record.id = base.db->open_build(record, std::string("a request\0", 10));
  {
    const auto open = base.db->open_builds();
    REQUIRE(open.size() == 1);
    CHECK(open[0].record.id == record.id);
    CHECK(open[0].record.account == base.a);
    CHECK(open[0].record.key == record.key);
    CHECK(open[0].record.tags == record.tags);
    CHECK(open[0].record.ssh_key == "12");
    CHECK(open[0].record.disk_bytes == 3 * kGiB);
    CHECK(open[0].record.output_bytes == 5 * kGiB);
    CHECK(open[0].record.outputs == record.outputs);
    CHECK(open[0].request == std::string("a request\0", 10));
    CHECK(open[0].plan.empty());
  }
  record.attempt = 2;
  CHECK_FALSE(base.db->begin_attempt(record, "9-2", 5));
  record.attempt = 1;
  CHECK(base.db->begin_attempt(record, "9-1", 5));
  CHECK_FALSE(base.db->begin_attempt(record, "9-1", 5));
  auto newer = record;
  newer.attempt = 2;
  newer.cpus = 3;
  CHECK(base.db->begin_attempt(newer, "9-2", 7));
  {
    const auto open = base.db->open_builds();
    REQUIRE(open.size() == 1);
    CHECK(open[0].record.attempt == 2);
    CHECK(open[0].record.cpus == 3);
    CHECK(open[0].plan == "9-2");
    CHECK(open[0].log_base == 7);
  }
  // The first machine comes back late: what it has made is nobody's.
  const auto info = info_for("out");
  record.status = model::BuildStatus::Built;
  CHECK_FALSE(base.db->end_build(record, {&info, 1}, nullptr));
  CHECK(base.db->all_paths(base.a).empty());
  newer.status = model::BuildStatus::Built;
  const auto orphan = info_for("orphan", {path_named("missing")});
  CHECK(code_of([&] {
          static_cast<void>(base.db->end_build(newer, {&orphan, 1}, nullptr));
        }) == "store.invalid-reference");
  CHECK(base.db->open_builds().size() == 1);
  CHECK(base.db->end_build(newer, {&info, 1}, nullptr));
  CHECK(base.db->path_info(base.a, info.path));
  CHECK(base.db->build(base.a, record.id)->status == model::BuildStatus::Built);
  CHECK(base.db->open_builds().empty());
  CHECK_FALSE(base.db->end_build(newer, {}, nullptr));
  CHECK_FALSE(base.db->begin_attempt(newer, "9-3", 0));
}

TEST_CASE("metadata: outcomes are found by key, one's own first, others' when shared",
          "[store][roundtrip]") {
  Database base(GENERATE(false, true));
  const auto key = hash_of(HashAlgorithm::Sha256, bytes_of("key"));
  const auto put_outcome = [&](AccountId account, model::BuildStatus status, bool shared) {
    BuildRecord record;
    record.account = account;
    record.id = base.db->open_build(record, "");
    BuildOutcome outcome;
    outcome.key = key;
    outcome.account = account;
    outcome.build = record.id;
    outcome.status = status;
    outcome.error = "why";
    outcome.shared = shared;
    outcome.timeout_seconds = 3;
    outcome.silence_seconds = 4;
    outcome.outputs = {info_for("dev", {path_named("in"), path_named("lib")}), info_for("out")};
    outcome.outputs[0].content_address = "fixed:sha256:x";
    CHECK(base.db->end_build(record, {}, &outcome));
    return record.id;
  };
  CHECK_FALSE(base.db->find_outcome(base.a, key, true));
  put_outcome(base.a, model::BuildStatus::Built, false);
  CHECK_FALSE(base.db->find_outcome(base.b, key, true));
  put_outcome(base.a, model::BuildStatus::PermanentFailure, true);
  CHECK_FALSE(base.db->find_outcome(base.b, key, true));
  const auto shared = put_outcome(base.a, model::BuildStatus::Built, true);
  CHECK_FALSE(base.db->find_outcome(base.b, key, false));
  const auto found = base.db->find_outcome(base.b, key, true);
  REQUIRE(found);
  CHECK(found->account == base.a);
  CHECK(found->build == shared);
  CHECK(found->status == model::BuildStatus::Built);
  CHECK(found->error == "why");
  CHECK(found->shared);
  CHECK(found->timeout_seconds == 3);
  CHECK(found->silence_seconds == 4);
  REQUIRE(found->outputs.size() == 2);
  for (const auto& name : {"dev", "out"}) {
    const auto wanted = path_named(name);
    const auto at = std::find_if(found->outputs.begin(),
                                 found->outputs.end(),
                                 [&](const auto& info) { return info.path == wanted; });
    REQUIRE(at != found->outputs.end());
    CHECK(at->nar_hash == info_for(name).nar_hash);
    CHECK(at->nar_size == info_for(name).nar_size);
    CHECK(at->references.size() == (std::string(name) == "dev" ? 2 : 0));
    CHECK(at->content_address == (std::string(name) == "dev" ? "fixed:sha256:x" : ""));
  }
  CHECK_FALSE(
      base.db->find_outcome(base.a, hash_of(HashAlgorithm::Sha256, bytes_of("other")), true));
  // One's own comes before a newer one of somebody else.
  const auto own = put_outcome(base.b, model::BuildStatus::TimedOut, false);
  put_outcome(base.a, model::BuildStatus::Built, true);
  CHECK(base.db->find_outcome(base.b, key, true)->build == own);
  base.db->remove_account(base.b);
  base.db->remove_account(base.a);
  CHECK_FALSE(base.db->find_outcome(base.a, key, true));
}

TEST_CASE("metadata: eight threads register at once, each for itself", "[store][fault]") {
  Database base(GENERATE(false, true));
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const auto name = std::to_string(t) + "-" + std::to_string(i);
        auto info = info_for(name);
        if (i % 10 == 9) {
          info.references = {path_named("absent")};
        }
        try {
          put(base, t % 2 == 0 ? base.a : base.b, info);
        } catch (const Error& error) {
          refused += error.code() == "store.invalid-reference" ? 1 : 1000;
        }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(refused == 8 * 5);
  CHECK(base.db->all_paths(base.a).size() == 4 * 45);
  CHECK(base.db->all_paths(base.b).size() == 4 * 45);
}

TEST_CASE("metadata: a hundred thousand paths", "[store][slow]") {
  const TemporaryDir dir;
  const auto db = open_sqlite_metadata(dir.path() / "db");
  const auto account = db->ensure_account("a");
  constexpr std::size_t kCount = 100'000;
  std::mt19937 random(1);
  std::vector<model::PathInfo> infos;
  model::StorePaths paths;
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto name = "package-" + std::to_string(i) + "-1.0";
    model::StorePaths references;
    for (int r = 0; r < 5 && i > 0; ++r) {
      references.push_back(paths[random() % i]);
    }
    infos.push_back(info_for(name, std::move(references)));
    infos.back().deriver = path_named(name + ".drv");
    infos.back().signatures = {"cache.example.org-1:" + std::string(88, 'x')};
    paths.push_back(infos.back().path);
  }
  const auto measure = [](const char* what, const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    const auto cpu = std::clock();
    work();
    std::cout << "# " << what << ": " << static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC
              << " cpu-s, "
              << std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()
              << " s\n";
  };
  measure("register 100k", [&] { db->register_paths(account, infos); });
  infos.clear();
  measure("valid 100k", [&] { CHECK(db->valid_paths(account, paths).size() == kCount); });
  std::size_t references = 0;
  measure("infos 100k", [&] {
    db->path_infos(
        account, paths, [&](const model::PathInfo& info) { references += info.references.size(); });
  });
  CHECK(references > 4 * kCount);
  const auto shuffled = [&] {
    auto copy = paths;
    std::shuffle(copy.begin(), copy.end(), random);
    return copy;
  }();
  measure("infos 100k, shuffled", [&] {
    db->path_infos(account, shuffled, [&](const model::PathInfo&) { ++references; });
  });
  measure("closure 100k", [&] { CHECK(db->closure(account, paths).size() == kCount); });
  measure("all 100k", [&] { CHECK(db->all_paths(account).size() == kCount); });
  measure("remove 100k", [&] { db->remove_paths(account, paths); });
  CHECK(db->all_paths(account).empty());
}
