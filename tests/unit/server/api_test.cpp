#include "http_fixture.hpp"
#include "server/api.hpp"
#include "server/http_tokens.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <catch2/catch.hpp>

#include <map>
#include <set>

namespace api_test {

using namespace nixbuild;
using model::BuildStatus;
using server::ApiCaller;
using server::Permission;
namespace json = boost::json;

namespace {

ApiCaller owner() {
  ApiCaller caller;
  caller.owner = true;
  return caller;
}

ApiCaller token(server::Permissions permissions, std::string account = "default") {
  ApiCaller caller;
  caller.account = std::move(account);
  caller.permissions = permissions;
  return caller;
}

struct ApiWorld : tests::HttpWorld {
  server::HttpHooks hooks;
  ApiCaller caller = token({Permission::BuildRead});

  server::ApiAnswer ask(std::string target, std::string method = "GET", std::string body = "") {
    const server::Api api(parts, hooks, [] { return std::size_t{3}; });
    return api.answer({std::move(method), std::move(target), std::move(body), caller});
  }

  json::value json(std::string target) {
    const auto answer = ask(std::move(target));
    INFO(answer.body);
    REQUIRE(answer.status == 200);
    REQUIRE(answer.type == "application/json");
    return json::parse(answer.body);
  }

  /// `404 http.no-build`.
  std::string refusal(std::string target, std::string method = "GET", std::string body = "") {
    const auto answer = ask(std::move(target), std::move(method), std::move(body));
    const auto value = json::parse(answer.body);
    CHECK(value.as_object().size() == 2);
    CHECK_FALSE(value.at("error").as_string().empty());
    return std::to_string(answer.status) + " " + std::string(value.at("code").as_string());
  }

  std::vector<std::int64_t> ids(const std::string& target) {
    std::vector<std::int64_t> result;
    const auto list = json(target);
    for (const auto& build : list.as_array()) {
      result.push_back(build.at("build_id").as_int64());
    }
    return result;
  }
};

using Ids = std::vector<std::int64_t>;

} // namespace

TEST_CASE("http api: a build has the fields and names that nixbuild.net gives it",
          "[server][http]") {
  ApiWorld f;
  const auto id = f.add_build(1'699'999'000, BuildStatus::Built);
  const auto build = f.json("/builds/" + std::to_string(id));
  CHECK(build == json::parse(R"({"build_id":1,
      "create_time":"2023-11-14T21:56:40.000000Z","start_time":"2023-11-14T21:56:41.000000Z",
      "queue_time_seconds":1.0,"duration_seconds":10.0,"build_status":"built",
      "status_message":null,"cpu_count":2,"allocated_megabytes":2048,"cpu_seconds":4.5,
      "peak_memory_use_kilobytes":102400,"peak_storage_use_kilobytes":null,
      "derivation_path":"/nix/store/00000000000000000000000000000000-a.drv","outputs":null,
      "system":"x86_64-linux","tags":{},"restart_of_build_id":null,
      "restarted_as_build_id":null,"log_size_bytes":7})"));
}

TEST_CASE("http api: what is not known yet of a build is null", "[server][http]") {
  ApiWorld f;
  const auto running = f.add_build(1'699'999'900, std::nullopt);
  auto build = f.json("/builds/" + std::to_string(running));
  CHECK(build.at("build_status") == "running");
  CHECK(build.at("duration_seconds") == 99.0);
  CHECK(build.at("cpu_seconds").is_null());
  CHECK(build.at("peak_memory_use_kilobytes").is_null());
  store::BuildRecord record;
  record.account = f.account;
  record.derivation = "x.drv";
  record.created_us = 1'699'999'940'000'000;
  build = f.json("/builds/" + std::to_string(f.db->add_build(record)));
  CHECK(build.at("build_status") == "pending");
  CHECK(build.at("start_time").is_null());
  CHECK(build.at("duration_seconds").is_null());
  CHECK(build.at("queue_time_seconds") == 60.0);
}

TEST_CASE("http api: builds are listed newest first, and filtered", "[server][http]") {
  ApiWorld f;
  CHECK(f.json("/builds").as_array().empty());
  f.add_build(1000, BuildStatus::Built);
  f.add_build(2000, BuildStatus::PermanentFailure, "failed");
  f.add_build(3000, BuildStatus::MiscFailure, "build of /nix/store/a.drv was cancelled");
  f.add_build(4000, std::nullopt);
  f.add_build(5000, BuildStatus::Built, "", f.other);
  CHECK(f.ids("/builds") == Ids{4, 3, 2, 1});
  CHECK(f.ids("/builds?limit=2") == Ids{4, 3});
  CHECK(f.ids("/builds?status=built") == Ids{1});
  CHECK(f.ids("/builds?status=build_failed,cancelled") == Ids{3, 2});
  CHECK(f.ids("/builds?status=").empty());
  CHECK(f.ids("/builds?create_time_from=2000&create_time_to=4000") == Ids{3, 2});
  CHECK(f.ids("/builds?create_time_from=1970-01-01T00:33:20Z&limit=1") == Ids{4});
  CHECK(f.ids("/builds?create_time_from=9223372036").empty());
  CHECK(f.ids("/builds?tags=a:b").empty());
  CHECK(f.ids("/builds?account=default&tags=") == Ids{4, 3, 2, 1});
  CHECK(f.json("/builds").at(1).at("build_status") == "cancelled");
  CHECK(f.json("/builds").at(2).at("status_message") == "failed");
}

TEST_CASE("http api: a filter finds what lies behind many other builds", "[server][http]") {
  ApiWorld f;
  const auto wanted = f.add_build(1000, BuildStatus::TimedOut);
  for (int i = 0; i < 700; ++i) {
    f.add_build(2000, BuildStatus::Built);
  }
  CHECK(f.ids("/builds?status=timeout&limit=1") == Ids{wanted});
  CHECK(f.json("/builds").as_array().size() == 50);
  CHECK(f.json("/builds?limit=600").as_array().size() == 600);
}

TEST_CASE("http api: parameters that do not fit are refused", "[server][http][reject]") {
  ApiWorld f;
  f.add_build(1000, BuildStatus::Built);
  for (const std::string query : {"limit=0",
                                  "limit=1001",
                                  "limit=x",
                                  "limit=1&limit=2",
                                  "status=Built",
                                  "status=built;running",
                                  "tags=a",
                                  "tags=:b",
                                  "create_time_from=x",
                                  "create_time_to=2023-13-01",
                                  "nothing=1",
                                  "=1"}) {
    INFO(query);
    CHECK(f.refusal("/builds?" + query) == "400 http.query");
    CHECK(f.refusal("/builds/summary?limit=1&" + query) == "400 http.query");
  }
  for (const std::string target : {"/builds/1?x=1",
                                   "/builds/1/log?follow=yes",
                                   "/builds/1/log?offset=-1",
                                   "/usage?from=x",
                                   "/usage?create_time_from=1"}) {
    CHECK(f.refusal(target) == "400 http.query");
  }
  CHECK(f.refusal("/builds?x=%") == "400 http.target");
}

TEST_CASE("http api: nothing is said to those who have no token", "[server][http][reject]") {
  ApiWorld f;
  f.add_build(1000, BuildStatus::Built);
  f.caller = {};
  for (const std::string target : {"/builds",
                                   "/builds/1",
                                   "/builds/99",
                                   "/builds/1/log",
                                   "/metrics",
                                   "/usage",
                                   "/settings",
                                   "/nothing",
                                   "/"}) {
    for (const std::string method : {"GET", "POST", "BREW"}) {
      CHECK(f.refusal(target, method) == "401 http.token");
    }
  }
  CHECK(f.ask("/healthz").status == 200);
  CHECK(f.ask("/healthz").body == "ok\n");
  CHECK(f.refusal("/healthz", "POST") == "405 http.method");
}

TEST_CASE("http api: a token sees nothing of another account, not even that it is there",
          "[server][http][reject]") {
  ApiWorld f;
  f.hooks.cancel = [](store::AccountId, std::int64_t) {
    FAIL("the build of another account was cancelled");
    return true;
  };
  f.caller = token(server::Permissions::all(), "other");
  const auto id = f.add_build(1000, BuildStatus::Built);
  f.logs->append(id, bytes_of("secret"));
  const auto theirs = std::to_string(id);
  const auto none = std::to_string(id + 1);
  for (const std::string tail : {"", "/log", "/log?follow=1"}) {
    const auto answer = f.ask("/builds/" + theirs + tail);
    CHECK(answer.status == 404);
    CHECK_FALSE(answer.log);
    CHECK(answer.body == f.ask("/builds/" + none + tail).body);
  }
  CHECK(f.ask("/builds/" + theirs + "/cancel", "POST").body ==
        f.ask("/builds/" + none + "/cancel", "POST").body);
  CHECK(f.ids("/builds").empty());
  CHECK(f.json("/builds/summary").at("build_count") == 0);
  CHECK(f.json("/usage").at("billable_build_count") == 0);
  CHECK(f.json("/usage").at("accounts").as_array().size() == 1);
  for (const std::string page : {"/builds", "/usage", "/builds/summary", "/builds/1"}) {
    const auto answer = f.ask(page + "?account=default");
    CHECK(answer.status == 404);
    CHECK(answer.body == f.ask(page + "?account=missing").body);
  }
}

TEST_CASE("http api: a token of an account that is gone sees nothing", "[server][http][reject]") {
  ApiWorld f;
  f.caller = token(server::Permissions::all(), "gone");
  CHECK(f.refusal("/builds") == "404 http.no-account");
  CHECK_FALSE(f.db->find_account("gone"));
}

TEST_CASE("http api: each page needs its permission", "[server][http][reject]") {
  ApiWorld f;
  f.hooks.set_setting = [](auto, auto, auto) {
    FAIL("set without permission");
  };
  f.hooks.unset_setting = [](auto, auto) {
    FAIL("unset without permission");
  };
  f.add_build(1000, std::nullopt);
  f.caller = token({Permission::StoreRead, Permission::StoreWrite, Permission::BuildWrite});
  for (const std::string target : {"/builds",
                                   "/builds/1",
                                   "/builds/1/log",
                                   "/builds/summary",
                                   "/usage",
                                   "/settings",
                                   "/settings/max-cpu"}) {
    CHECK(f.refusal(target) == "403 http.permission");
  }
  f.caller = token({Permission::BuildRead, Permission::StoreWrite, Permission::AccountWrite});
  CHECK(f.refusal("/builds/1/cancel", "POST") == "403 http.permission");
  f.caller = token({Permission::BuildRead, Permission::StoreWrite, Permission::BuildWrite});
  CHECK(f.refusal("/settings/max-cpu", "PUT", R"({"value":1})") == "403 http.permission");
  CHECK(f.refusal("/settings/max-cpu", "DELETE") == "403 http.permission");
}

TEST_CASE("http api: the numbers of the server and those of an account need tokens of their own",
          "[server][http][reject]") {
  ApiWorld f;
  f.caller = token(server::Permissions::all());
  CHECK(f.refusal("/metrics") == "403 http.account-token");
  f.caller = token({Permission::BuildRead}, std::string(server::kWholeServer));
  CHECK(f.ask("/metrics").status == 200);
  for (const std::string target : {"/builds", "/usage", "/builds/1", "/settings"}) {
    CHECK(f.refusal(target) == "403 http.whole-server");
    CHECK(f.refusal(target + "?account=default") == "403 http.whole-server");
  }
  f.caller.permissions = {};
  CHECK(f.refusal("/metrics") == "403 http.permission");
}

TEST_CASE("http api: the owner sees every account, one at a time", "[server][http]") {
  ApiWorld f;
  f.caller = owner();
  f.add_build(1000, BuildStatus::Built);
  const auto theirs = f.add_build(1000, BuildStatus::Built, "", f.other);
  CHECK(f.ids("/builds") == Ids{1});
  CHECK(f.ids("/builds?account=other") == Ids{theirs});
  CHECK(f.refusal("/builds?account=missing") == "404 http.no-account");
  CHECK(f.json("/usage").at("accounts").as_array().size() == 2);
  CHECK(f.json("/usage?account=other").at("accounts").as_array().size() == 1);
  CHECK(f.ask("/metrics").status == 200);
}

TEST_CASE("http api: pages and methods that are not there", "[server][http][reject]") {
  ApiWorld f;
  f.add_build(1000, BuildStatus::Built);
  for (const std::string target : {"/",
                                   "/nothing",
                                   "/builds/",
                                   "/builds/1/",
                                   "/builds/1/log/x",
                                   "/builds//log",
                                   "/Builds",
                                   "/builds/1/nothing",
                                   "/settings/a/b",
                                   "/metrics/x"}) {
    INFO(target);
    CHECK(f.ask(target).status == 404);
  }
  for (const std::string number :
       {"0", "-1", "2", "x", "1x", "0x1", "99999999999999999999", "%31%00", "..", "*"}) {
    INFO(number);
    CHECK(f.refusal("/builds/" + number) == "404 http.no-build");
  }
  CHECK(f.refusal("/builds", "POST") == "405 http.method");
  CHECK(f.ask("/builds", "POST").allow == "GET, HEAD");
  CHECK(f.ask("/builds/1/cancel").allow == "POST");
  CHECK(f.ask("/settings/max-cpu", "POST").allow == "GET, PUT, DELETE, HEAD");
  CHECK(f.ask("/builds", "HEAD").status == 200);
  CHECK(f.ask("/builds/%31").status == 200);
}

TEST_CASE("http api: the summary counts and adds up", "[server][http]") {
  ApiWorld f;
  f.add_build(1000, BuildStatus::Built);            // 1001 to 1011
  f.add_build(1005, BuildStatus::PermanentFailure); // 1006 to 1016
  f.add_build(2000, BuildStatus::MiscFailure);
  f.add_build(3000, BuildStatus::MiscFailure, "build of a.drv was cancelled");
  f.add_build(1'699'999'989, std::nullopt); // for ten seconds
  CHECK(f.json("/builds/summary") == json::parse(R"({"build_count":5,"running_build_count":1,
      "discarded_build_count":1,"failed_build_count":2,"successful_build_count":1,
      "total_cpu_seconds":18.0,"billable_cpu_seconds":13.5,"total_duration_seconds":50.0,
      "wall_time_seconds":45.0,"total_output_nar_size_kilobytes":0})"));
  CHECK(f.json("/builds/summary?status=built").at("build_count") == 1);
  CHECK(f.json("/builds/summary?create_time_to=1001").at("wall_time_seconds") == 10.0);
}

TEST_CASE("http api: usage is told per account and day of the end", "[server][http]") {
  ApiWorld f;
  f.add_build(86'000, BuildStatus::Built);
  f.add_build(86'395, BuildStatus::PermanentFailure); // ends on the second day
  f.add_build(86'500, BuildStatus::MiscFailure);      // our fault: free
  f.add_build(86'500, std::nullopt);
  CHECK(f.json("/usage") == json::parse(R"({"billable_build_count":2,"billable_cpu_seconds":9.0,
      "accounts":[{"account":"default","billable_build_count":2,"billable_cpu_seconds":9.0,
        "days":[{"date":"1970-01-01","billable_build_count":1,"billable_cpu_seconds":4.5},
                {"date":"1970-01-02","billable_build_count":1,"billable_cpu_seconds":4.5}],
        "keys":[{"key":"","billable_build_count":2,"billable_cpu_seconds":9.0}],
        "tags":[]}]})"));
  CHECK(f.json("/usage?from=1970-01-02").at("billable_build_count") == 1);
  CHECK(f.json("/usage?to=1970-01-02").at("billable_build_count") == 1);
  CHECK(f.json("/usage?from=1970-01-02&to=1970-01-02").at("billable_build_count") == 0);
}

TEST_CASE("http api: builds are found and summed by tag and key", "[server][http]") {
  ApiWorld f;
  for (const int seconds : {1000, 2000, 3000}) {
    f.add_build(seconds, BuildStatus::Built);
  }
  auto record = *f.db->build(f.account, 2);
  record.tags = {"PR:7", "TEAM:web:a"};
  record.ssh_key = "5";
  record.disk_bytes = 2048;
  record.output_bytes = 4096;
  const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of("nar"));
  const model::StorePath made(hash_of(HashAlgorithm::Sha1, bytes_of("made")).bytes(), "made");
  record.outputs = {{"out", made, digest, 4096}};
  f.db->update_build(record);
  CHECK(f.json("/builds?tags=PR:7").as_array().size() == 1);
  CHECK(f.json("/builds?tags=PR:7,TEAM:web:a").as_array().size() == 1);
  CHECK(f.json("/builds?tags=PR:7,TEAM:web").as_array().empty());
  const auto build = f.json("/builds/2");
  CHECK(build.at("tags") == json::parse(R"({"PR":"7","TEAM":"web:a"})"));
  CHECK(build.at("peak_storage_use_kilobytes") == 2);
  CHECK(build.at("outputs") == json::parse(R"([{"name":"out",
    "path":"/nix/store/0sxxpfxv28gr6dirwj411b8zkmgzjwp5-made",
    "nar_hash":"sha256-waPQq2SYIdtU7E3GaMY0ieoXc4yhcn7SY4ojDt5gXj8=","nar_size_bytes":4096}])"));
  CHECK(f.json("/builds/summary?tags=PR:7").at("total_output_nar_size_kilobytes") == 4);
  const auto usage = f.json("/usage").at("accounts").at(0);
  CHECK(usage.at("keys").as_array().size() == 2);
  CHECK(usage.at("keys").at(1).at("key") == "5");
  CHECK(usage.at("tags").as_array().size() == 2);
  CHECK(usage.at("tags").at(0).at("tag") == "PR:7");
  CHECK(usage.at("tags").at(0).at("billable_build_count") == 1);
}

TEST_CASE("http api: a log is asked for, and read in pieces", "[server][http]") {
  ApiWorld f;
  const auto id = f.add_build(1000, std::nullopt);
  const auto answer = f.ask("/builds/" + std::to_string(id) + "/log?follow=1&offset=3");
  REQUIRE(answer.log);
  CHECK(answer.type == "text/plain; charset=utf-8");
  CHECK(answer.log->build == id);
  CHECK(answer.log->offset == 3);
  CHECK(answer.log->follow);

  const server::Api api(f.parts, {}, {});
  server::LogRequest log = *answer.log;
  CHECK_FALSE(api.read_log(log, 0).ended);
  f.logs->append(id, bytes_of(std::string(100'000, 'x')));
  CHECK(api.read_log(log, 0).bytes.size() == 64 * kKiB);
  CHECK_FALSE(api.read_log(log, 100'000).ended);
  log.follow = false;
  CHECK(api.read_log(log, 100'000).ended);
  log.follow = true;
  f.logs->finish(id);
  CHECK(api.read_log(log, 100'000).ended);
  CHECK(api.read_log(log, UINT64_MAX / 2).ended);
}

TEST_CASE("http api: a build is cancelled by its number", "[server][http]") {
  ApiWorld f;
  f.caller = token({Permission::BuildWrite});
  const auto running = f.add_build(1000, std::nullopt);
  const auto ended = f.add_build(1000, BuildStatus::Built);
  const auto path = [](std::int64_t id) {
    return "/builds/" + std::to_string(id) + "/cancel";
  };
  CHECK(f.refusal(path(running), "POST") == "501 http.not-offered");
  CHECK(f.refusal(path(99), "POST") == "404 http.no-build");
  std::vector<std::pair<std::int64_t, std::int64_t>> asked;
  f.hooks.cancel = [&](store::AccountId account, std::int64_t build) {
    asked.emplace_back(account.value, build);
    return true;
  };
  CHECK(json::parse(f.ask(path(running), "POST").body) ==
        json::parse(R"({"build_id":1,"cancelled":true})"));
  CHECK(asked == std::vector{std::pair{f.account.value, running}});
  CHECK(json::parse(f.ask(path(ended), "POST").body).at("cancelled") == false);
  CHECK(asked.size() == 1);
  f.hooks.cancel = [](auto, auto) {
    return false;
  };
  CHECK(json::parse(f.ask(path(running), "POST").body).at("cancelled") == false);
}

TEST_CASE("http api: settings go through the hooks", "[server][http]") {
  ApiWorld f;
  f.caller = token({Permission::BuildRead, Permission::AccountWrite});
  for (const std::string method : {"GET", "PUT", "DELETE"}) {
    CHECK(f.refusal("/settings/max-cpu", method, R"({"value":1})") == "501 http.not-offered");
  }
  CHECK(f.refusal("/settings") == "501 http.not-offered");

  std::map<std::string, std::string, std::less<>> values{{"max-mem", "4096"}};
  f.hooks.list_settings = [&](store::AccountId account) {
    CHECK(account == f.account);
    return std::vector<std::pair<std::string, std::string>>(values.begin(), values.end());
  };
  f.hooks.get_setting = [&](store::AccountId, std::string_view name) {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
  f.hooks.set_setting = [&](store::AccountId, std::string_view name, std::string_view value) {
    if (value == "-1") {
      throw Error(Reaction::Reject, "settings.value", "max-cpu must be at least 1");
    }
    values.insert_or_assign(std::string(name), std::string(value));
  };
  f.hooks.unset_setting = [&](store::AccountId, std::string_view name) {
    values.erase(std::string(name));
  };
  CHECK(f.ask("/settings/max-cpu", "PUT", R"({"value": 4})").status == 200);
  CHECK(f.json("/settings") == json::parse(R"({"max-cpu":"4","max-mem":"4096"})"));
  CHECK(f.json("/settings/max-cpu") == json::parse(R"({"name":"max-cpu","value":"4"})"));
  CHECK(json::parse(f.ask("/settings/flag", "PUT", R"({"value": true})").body) ==
        json::parse(R"({"name":"flag","value":"true"})"));
  CHECK(f.ask("/settings/text", "PUT", R"({"value": "a b"})").status == 200);
  CHECK(values["text"] == "a b");
  CHECK(f.refusal("/settings/max-cpu", "PUT", R"({"value": -1})") == "400 settings.value");
  CHECK(json::parse(f.ask("/settings/max-cpu", "DELETE").body) ==
        json::parse(R"({"name":"max-cpu","value":null})"));
  CHECK(f.refusal("/settings/max-cpu") == "404 http.no-setting");
  const std::string long_name(65, 'a');
  for (const std::string name : {"%2e%2e", "A", "a%00b", "a_b", long_name.c_str()}) {
    CHECK(f.refusal("/settings/" + name) == "404 http.no-setting");
    CHECK(f.refusal("/settings/" + name, "PUT", R"({"value":1})") == "404 http.no-setting");
  }
  for (const std::string body : {"",
                                 "4",
                                 "{}",
                                 R"({"value":null})",
                                 R"({"value":1.5})",
                                 R"({"value":[1]})",
                                 R"({"value":1,"more":2})",
                                 R"({"other":1})",
                                 R"({"value":1} x)",
                                 "\xff\xfe",
                                 R"({"value":"\ud800"})"}) {
    INFO(body);
    CHECK(f.refusal("/settings/max-cpu", "PUT", body) == "400 http.body");
  }
  CHECK(f.refusal("/settings/max-cpu", "PUT", std::string(60'000, '[')) == "400 http.body");
}

TEST_CASE("http api: every reaction has its status, and what is wrong inside is not told",
          "[server][http]") {
  const std::map<Reaction, unsigned> expected = {{Reaction::Reject, 400},
                                                 {Reaction::NotFound, 404},
                                                 {Reaction::Denied, 403},
                                                 {Reaction::Busy, 503},
                                                 {Reaction::Disconnected, 503},
                                                 {Reaction::Timeout, 504},
                                                 {Reaction::Cancelled, 409},
                                                 {Reaction::Unsupported, 501},
                                                 {Reaction::Corrupt, 500},
                                                 {Reaction::Internal, 500}};
  ApiWorld f;
  for (const auto& [reaction, status] : expected) {
    f.hooks.get_setting = [reaction = reaction](auto, auto) -> std::optional<std::string> {
      throw Error(reaction, "test.code", "the secret text");
    };
    CHECK(server::http_status_of(reaction) == status);
    CHECK(f.refusal("/settings/a") ==
          std::to_string(status) + (status == 500 ? " http.internal" : " test.code"));
    CHECK((f.ask("/settings/a").body.find("secret") == std::string::npos) == (status == 500));
  }
  f.hooks.get_setting = [](auto, auto) -> std::optional<std::string> {
    throw std::runtime_error("the secret text");
  };
  CHECK(f.refusal("/settings/a") == "500 http.internal");
}

TEST_CASE("http api: metrics are in Prometheus's text format", "[server][http]") {
  ApiWorld f;
  f.caller = owner();
  f.counters.build_ended(server::ReportedStatus::Built);
  f.counters.build_ended(server::ReportedStatus::OutOfMemory);
  f.counters.log_written(1234);
  f.counters.http_answered(200);
  f.counters.http_answered(404);
  const server::CountedSession session(f.counters, server::SessionProtocol::Serve);
  f.hooks.build_load = [] {
    return server::BuildLoad{2, 5};
  };
  f.hooks.stored_bytes = [] {
    return std::uint64_t{99};
  };
  f.hooks.host_state = [] {
    return server::HostState{true, false, 6};
  };
  f.hooks.machine_walls = [] {
    return server::MachineWalls{7, 3};
  };
  const auto answer = f.ask("/metrics");
  CHECK(answer.type == "text/plain; version=0.0.4; charset=utf-8");
  std::set<std::string> lines, typed;
  REQUIRE(answer.body.ends_with('\n'));
  for (std::size_t at = 0; at < answer.body.size();) {
    const auto end = answer.body.find('\n', at);
    const auto line = answer.body.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("# TYPE ")) {
      CHECK(typed.insert(line.substr(7, line.rfind(' ') - 7)).second);
    } else if (!line.starts_with("# HELP ")) {
      // Each sample stands behind the type of its name.
      CHECK(typed.contains(line.substr(0, line.find_first_of("{ "))));
      CHECK(lines.insert(line).second);
    }
  }
  for (const std::string line : {"nixbuild_builds_ended_total{status=\"built\"} 1",
                                 "nixbuild_builds_ended_total{status=\"out_of_memory\"} 1",
                                 "nixbuild_builds_ended_total{status=\"cancelled\"} 0",
                                 "nixbuild_builds_running 2",
                                 "nixbuild_builds_waiting 5",
                                 "nixbuild_machines_total 7",
                                 "nixbuild_machines_weaker_total 3",
                                 "nixbuild_log_bytes_total 1234",
                                 "nixbuild_sessions_open{protocol=\"serve\"} 1",
                                 "nixbuild_sessions_total{protocol=\"worker\"} 0",
                                 "nixbuild_store_bytes 99",
                                 "nixbuild_host_faults_total 6",
                                 "nixbuild_host_closed 1",
                                 "nixbuild_host_without_kvm 0",
                                 "nixbuild_http_connections 3",
                                 "nixbuild_http_requests_total{code=\"404\"} 1"}) {
    INFO(line);
    CHECK(lines.contains(line));
  }
  CHECK(answer.body.find("nixbuild_build_info{version=\"") != std::string::npos);
  CHECK(answer.body.find("status=\"running\"") == std::string::npos);
  CHECK(answer.body.find("nixbuild_uptime_seconds 0.") != std::string::npos);
  f.hooks = {};
  CHECK(f.ask("/metrics").body.find("builds_running") == std::string::npos);
  CHECK(f.ask("/metrics").body.find("store_bytes") == std::string::npos);
  CHECK(f.refusal("/metrics?x=1") == "400 http.query");
}

TEST_CASE("http api: health is told to everyone, and is bad while no machine works",
          "[server][http]") {
  ApiWorld f;
  f.caller = {};
  CHECK(f.ask("/healthz").body == "ok\n");
  bool closed = true;
  f.hooks.host_state = [&closed] {
    return server::HostState{closed, true, 1};
  };
  const auto answer = f.ask("/healthz");
  CHECK(answer.status == 503);
  CHECK(answer.body == "failing\nno machine works on this host: builds fail\n");
  // Why is not for everyone; and emulation is no illness.
  closed = false;
  CHECK(f.ask("/healthz").status == 200);
}

} // namespace api_test
