#include "fixture.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <thread>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

std::string nar_of_size(char fill) {
  return nar_of_file(std::string(10'000, fill));
}

template <class F>
std::string refusal_of(F&& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == "store.account-full");
    CHECK(error.reaction() == Reaction::Denied);
    return error.what();
  }
  return "";
}

/// Nothing is announced, as for a build's output.
ImportRequest unannounced(const model::StorePath& path) {
  auto request = request_for(path, "");
  request.nar_hash.reset();
  request.nar_size.reset();
  return request;
}

} // namespace

TEST_CASE("room: an account takes what fits, and what does not is refused with the figures",
          "[store][room]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto nar = nar_of_size('a');
  ports.store->set_max_bytes(ports.account, 2 * nar.size());
  add(*ports.store, ports.account, request_for(path_named("one"), nar), nar);
  add(*ports.store, ports.account, request_for(path_named("two"), nar), nar);
  CHECK(ports.db->stored_bytes(ports.account) == 2 * nar.size());
  const auto message = refusal_of([&] {
    static_cast<void>(
        ports.store->begin_import(ports.account, request_for(path_named("three"), nar)));
  });
  CHECK(message.find("account 'default'") != std::string::npos);
  CHECK(message.find(std::to_string(2 * nar.size()) + " bytes, " +
                     std::to_string(2 * nar.size())) != std::string::npos);
  CHECK(message.find(std::to_string(nar.size()) + " more") != std::string::npos);
  // What is there already may come again, and another account has its own room.
  add(*ports.store, ports.account, request_for(path_named("two"), nar), nar);
  const auto other = ports.db->ensure_account("other");
  add(*ports.store, other, request_for(path_named("three"), nar), nar);
  CHECK(ports.db->stored_bytes(other) == nar.size());
}

TEST_CASE("room: without an announced size the bytes are counted as they come", "[store][room]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const std::string nar = nar_of_file(std::string(3'000'000, 'b'));
  ports.store->set_max_bytes(ports.account, 1'000'000);
  {
    auto import = ports.store->begin_import(ports.account, unannounced(path_named("large")));
    CHECK_FALSE(refusal_of([&] { feed(import, nar); }).empty());
  }
  CHECK(ports.drafts() == 0);
  ports.store->set_max_bytes(ports.account, nar.size());
  auto import = ports.store->begin_import(ports.account, unannounced(path_named("large")));
  CHECK(feed(import, nar) == nar.size());
  const auto info = import.seal();
  ports.store->commit(ports.account, {&info, 1});
  CHECK(ports.db->stored_bytes(ports.account) == nar.size());
}

TEST_CASE("room: a registration that exceeds the limit registers nothing and keeps no contents",
          "[store][room]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  std::vector<model::PathInfo> infos;
  std::uint64_t total = 0;
  for (const char fill : {'a', 'b', 'c'}) {
    const auto nar = nar_of_size(fill);
    auto import =
        ports.store->begin_import(ports.account, request_for(path_named({&fill, 1}), nar));
    feed(import, nar);
    infos.push_back(import.seal());
    total += nar.size();
  }
  ports.store->set_max_bytes(ports.account, total - 1);
  CHECK_FALSE(refusal_of([&] { ports.store->commit(ports.account, infos); }).empty());
  CHECK(ports.db->all_paths(ports.account).empty());
  CHECK(ports.segment_count() == 0);
}

TEST_CASE("room: what is collected makes room, and a limit may come and go", "[store][room]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto nar = nar_of_size('a');
  const auto put = [&](const char* name) {
    return refusal_of(
        [&] { add(*ports.store, ports.account, request_for(path_named(name), nar), nar); });
  };
  ports.store->set_max_bytes(ports.account, nar.size());
  CHECK(put("one").empty());
  CHECK_FALSE(put("two").empty());
  ports.store->collect_garbage(ports.account, {});
  CHECK(put("two").empty());
  ports.store->set_max_bytes(ports.account, std::nullopt);
  CHECK(put("three").empty());
  ports.store->set_max_bytes(ports.account, 2 * nar.size());
  CHECK_FALSE(put("four").empty());
  ports.store->set_max_bytes(ports.account, 0);
  CHECK_FALSE(put("four").empty());
}

TEST_CASE("room: registrations at once do not exceed the limit together", "[store][room]") {
  Ports ports(Kind::Files);
  const auto nar = nar_of_size('a');
  constexpr int kFit = 5;
  std::vector<model::PathInfo> infos;
  for (int i = 0; i < 4 * kFit; ++i) {
    auto import = ports.store->begin_import(ports.account,
                                            request_for(path_named("n" + std::to_string(i)), nar));
    feed(import, nar);
    infos.push_back(import.seal());
  }
  ports.store->set_max_bytes(ports.account, kFit * nar.size());
  std::atomic<int> refused{0};
  std::vector<std::jthread> threads;
  for (const auto& info : infos) {
    threads.emplace_back([&ports, &info, &refused] {
      try {
        ports.store->commit(ports.account, {&info, 1});
      } catch (const Error&) {
        ++refused;
      }
    });
  }
  threads.clear();
  CHECK(ports.db->stored_bytes(ports.account) <= kFit * nar.size());
  CHECK(refused >= 3 * kFit);
}
