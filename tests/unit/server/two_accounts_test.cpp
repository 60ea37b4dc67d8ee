#include "admin_rig.hpp"
#include "server/api.hpp"

#include <nixbuild/server/http.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace two_accounts_test {

using namespace nixbuild;
using namespace nixbuild::test;
namespace json = boost::json;

/// One account tries to see or to influence what another one has. Each attempt is compared with the
/// same attempt on something that exists nowhere: the answers must not differ.
namespace {

constexpr const char* kAttacker = "other";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
  return text;
}

struct TwoAccounts : Fixture {
  model::PathInfo base = add("secret-base", tests::nar_of_file("base contents"));
  model::PathInfo top = add("secret-top", tests::nar_of_file("top contents"), {base.path});
  model::StorePath nowhere{
      hash_of(HashAlgorithm::Sha256, bytes_of(std::string("nowhere"))).bytes().first(20),
      "secret-base"};
  std::int64_t ended = add_build("secret.drv", model::BuildStatus::PermanentFailure);
  std::int64_t running = add_build("secret-running.drv", std::nullopt);
  store::AccountId attacker = db->ensure_account(kAttacker);

  TwoAccounts() {
    logs->append(ended, bytes_of(std::string("secret log\n")));
    logs->finish(ended);
    logs->append(running, bytes_of(std::string("secret log\n")));
    db->set_account_setting(account, "max-cpu", "7");
  }

  std::string printed(const model::StorePath& path) const { return store.dir().print(path); }

  /// The same about a path, whose base name may be told, too.
  std::string told_of(std::vector<std::string> words, const model::StorePath& path) {
    return replaced(told(std::move(words), printed(path)), path.base_name(), "NAME");
  }

  /// What the attacker is told, the object's name taken out.
  std::string told(std::vector<std::string> words, const std::string& object) {
    words.push_back(object);
    const auto outcome = run(std::move(words), true, kAttacker);
    return replaced(
        std::to_string(outcome.status) + "|" + outcome.out + "|" + outcome.err, object, "OBJECT");
  }
};

template <class F>
std::string answer_of(F&& ask) {
  try {
    return ask();
  } catch (const Error& error) {
    return error.code();
  }
}

} // namespace

TEST_CASE("two accounts: commands about the other's paths answer as if there were none",
          "[server][two-accounts]") {
  TwoAccounts f;
  const std::vector<std::vector<std::string>> attempts{{"path", "info"},
                                                       {"path", "info", "--json"},
                                                       {"path", "info", "--closure-size"},
                                                       {"path", "list"},
                                                       {"path", "cat"},
                                                       {"path", "cat", "--nar"},
                                                       {"path", "verify"},
                                                       {"path", "verify", "--json"}};
  for (const auto& words : attempts) {
    CAPTURE(words);
    const auto there = f.told_of(words, f.base.path);
    CHECK(there == f.told_of(words, f.nowhere));
    CHECK(there.find("contents") == std::string::npos);
    // By the 32 characters of its hash.
    CHECK(f.told(words, std::string(f.base.path.hash_part())) ==
          f.told(words, std::string(f.nowhere.hash_part())));
  }
  CHECK(f.run({"path", "list", "--json"}, true, kAttacker).json().as_array().empty());
}

TEST_CASE("two accounts: commands about the other's builds answer as if there were none",
          "[server][two-accounts]") {
  TwoAccounts f;
  const std::string absent = "424242";
  for (const auto id : {f.ended, f.running}) {
    const auto number = std::to_string(id);
    for (const auto& words : std::vector<std::vector<std::string>>{{"builds"},
                                                                   {"builds", "--json"},
                                                                   {"why"},
                                                                   {"why", "--json"},
                                                                   {"log"},
                                                                   {"log", "--follow"},
                                                                   {"attach"},
                                                                   {"cancel"}}) {
      CAPTURE(words, number);
      const auto there = f.told(words, number);
      CHECK(there == f.told(words, absent));
      CHECK(there.starts_with("4|"));
      CHECK(there.find("secret") == std::string::npos);
    }
  }
  for (const auto& words :
       std::vector<std::vector<std::string>>{{"builds", "--json"},
                                             {"builds", "--json", "--running"},
                                             {"builds", "--json", "--failed"}}) {
    CHECK(f.run(words, true, kAttacker).json().as_array().empty());
  }
  CHECK(f.run({"usage", "--json"}, true, kAttacker).json().at(0).at("storedBytes") ==
        json::value(0));
  CHECK(f.db->build(f.account, f.running)->status == std::nullopt);
}

TEST_CASE("two accounts: nothing of the other account can be named or changed",
          "[server][two-accounts]") {
  TwoAccounts f;
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"settings", "show", "--account", "default"},
           {"settings", "set", "max-cpu", "1", "--account=default"},
           {"builds", "--account", "default"},
           {"usage", "--all"},
           {"key", "list", "--account", "default"},
           {"account", "remove", "default", "--force"},
           {"gc"},
           {"drain"},
           {"undrain"}}) {
    CAPTURE(words);
    const auto outcome = f.run(words, true, kAttacker);
    CHECK(outcome.status == 3);
    CHECK(outcome.out.empty());
  }
  CHECK(f.run({"account", "list"}, true, kAttacker).out.find("default") == std::string::npos);
  CHECK(f.run({"settings", "show", "max-cpu"}, true, kAttacker).out.find('7') == std::string::npos);
  CHECK(f.db->account_settings(f.account).at("max-cpu") == "7");
}

TEST_CASE("two accounts: the store answers one account from its own names only",
          "[server][two-accounts]") {
  TwoAccounts f;
  auto& db = *f.db;
  const auto same = [&](auto&& ask) {
    const auto there = answer_of([&] { return ask(f.base.path); });
    CHECK(there == answer_of([&] { return ask(f.nowhere); }));
    return there;
  };
  CHECK(same([&](const auto& path) {
          return std::to_string(db.valid_paths(f.attacker, {&path, 1}).size());
        }) == "0");
  CHECK(same([&](const auto& path) {
          return std::string(db.path_info(f.attacker, path) ? "there" : "absent");
        }) == "absent");
  CHECK(same([&](const auto& path) {
          return std::to_string(db.closure(f.attacker, {&path, 1}).size());
        }) == "store.invalid-path");
  CHECK(same([&](const auto& path) {
          return std::to_string(db.referrers(f.attacker, path).size());
        }) == "0");
  CHECK(same([&](const auto& path) {
          const auto found = db.path_of_hash_part(f.attacker, path.hash_part());
          return std::string(found ? "there" : "absent");
        }) == "absent");
  CHECK(same([&](const auto& path) {
          static_cast<void>(f.store.open_export(f.attacker, path));
          return std::string("open");
        }) == "store.invalid-path");
  // A reference to a path that only the other account has is a reference to nothing.
  CHECK(same([&](const auto& path) {
          static_cast<void>(f.add("mine", tests::nar_of_file("mine"), {path}, kAttacker));
          return std::string("registered");
        }) == "store.invalid-reference");
  CHECK(db.all_paths(f.attacker).empty());
}

TEST_CASE("two accounts: contents under the other's name stay with whoever sent them",
          "[server][two-accounts]") {
  TwoAccounts f;
  const auto poison = f.add("secret-base", tests::nar_of_file("poison"), {}, kAttacker);
  REQUIRE(poison.path == f.base.path);
  const auto shown = [&](const char* who) {
    return f.run({"path", "cat", f.printed(f.base.path)}, true, who).out;
  };
  CHECK(shown("default") == "base contents");
  CHECK(shown(kAttacker) == "poison");
  CHECK(f.db->path_info(f.account, f.base.path)->nar_hash == f.base.nar_hash);
  // Collection, leases and signatures of one account are nothing to the other one.
  auto lease = f.store.lease(f.attacker);
  lease.add(f.top.path);
  f.db->add_signatures(f.attacker, poison.path, std::vector<std::string>{"evil:AAAA"});
  CHECK(f.db->path_info(f.account, f.base.path)->signatures.empty());
  CHECK(f.store.collect_garbage(f.attacker, {}).paths_removed == 1);
  CHECK(shown("default") == "base contents");
  CHECK(f.store.verify(f.account, {}).empty());
  f.db->remove_account(f.attacker);
  CHECK(f.db->all_paths(f.account).size() == 2);
  CHECK(shown("default") == "base contents");
}

TEST_CASE("two accounts: a token of one account finds nothing of the other one",
          "[server][two-accounts][http]") {
  TwoAccounts f;
  server::ServerCounters counters;
  std::vector<std::int64_t> cancelled;
  server::HttpHooks hooks;
  hooks.cancel = [&](store::AccountId account, std::int64_t build) {
    cancelled.push_back(build);
    return f.builds.cancel(account, build);
  };
  const server::HttpParts parts{f.store, *f.logs, f.clock, counters, f.log};
  const server::Api api(parts, hooks, [] { return std::size_t{0}; });
  const auto ask = [&](const std::string& target, const std::string& method = "GET") {
    server::ApiCaller caller;
    caller.account = kAttacker;
    caller.permissions = server::Permissions::all();
    return api.answer({method, target, "", caller});
  };
  const auto number = std::to_string(f.ended);
  for (const std::string tail : {"", "/log", "/log?follow=1"}) {
    const auto there = ask("/builds/" + number + tail);
    const auto absent = ask("/builds/424242" + tail);
    CHECK(there.status == absent.status);
    CHECK(there.status >= 400);
    CHECK(replaced(there.body, " " + number, " N") == replaced(absent.body, " 424242", " N"));
    CHECK_FALSE(there.log);
  }
  for (const std::string target : {"/builds", "/builds/summary", "/usage"}) {
    const auto answer = ask(target);
    CAPTURE(target, answer.body);
    CHECK(answer.status == 200);
    CHECK(answer.body.find("secret") == std::string::npos);
    CHECK(answer.body.find("default") == std::string::npos);
  }
  for (const std::string target :
       {"/builds?account=default", "/usage?account=default", "/metrics"}) {
    const auto answer = ask(target);
    CAPTURE(target, answer.body);
    CHECK(answer.status >= 400);
    CHECK(answer.body.find("secret") == std::string::npos);
  }
}

} // namespace two_accounts_test
