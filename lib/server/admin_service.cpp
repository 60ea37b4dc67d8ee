#include "account_usage.hpp"
#include "admin_call.hpp"
#include "admin_text.hpp"
#include "api_time.hpp"
#include "own_loops.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

/// Commands about the whole service: what it has been used for, and whether it starts builds.
namespace nixbuild::server {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::chrono::milliseconds kDrainPoll{100};

std::int64_t time_option(const AdminCall& call, std::string_view option, std::int64_t otherwise) {
  const auto text = call.command.value(option);
  if (!text) {
    return otherwise;
  }
  const auto time = parse_time_us(*text);
  if (!time) {
    throw_usage(
        fmt::format("'{}' is no time: write 2026-01-31 or 2026-01-31T12:00:00Z", printable(*text)));
  }
  return *time;
}

/// Those that the command is about, by name.
std::vector<store::Account> accounts_meant(const AdminCall& call) {
  if (!call.command.has("--all")) {
    return {store::Account{call.account, call.handoff.account}};
  }
  if (call.handoff.limited) {
    throw Error(Reaction::Denied,
                "admin.account",
                fmt::format("this session is limited to the account '{}'", call.handoff.account));
  }
  auto accounts = call.parts.store.db().accounts();
  std::sort(accounts.begin(), accounts.end(), [](const auto& a, const auto& b) {
    return a.name < b.name;
  });
  return accounts;
}

json::object as_json(const Spent& spent) {
  return json::object{{"builds", spent.builds},
                      {"cpuSeconds", static_cast<double>(spent.cpu_us) / 1e6},
                      {"memoryGibSeconds", spent.memory_gib_seconds}};
}

using Parts = std::map<std::string, Spent>;

json::array list_of(std::string_view name, const Parts& parts) {
  json::array list;
  for (const auto& [part, spent] : parts) {
    auto entry = as_json(spent);
    entry[name] = part;
    list.push_back(std::move(entry));
  }
  return list;
}

const Parts& parts_of(const AccountUsage& usage, std::string_view by) {
  if (by == "day") {
    return usage.days;
  }
  if (by == "key") {
    return usage.keys;
  }
  if (by == "tag") {
    return usage.tags;
  }
  throw_usage(fmt::format("'{}' is nothing to sum by: write day, key or tag", printable(by)));
}

build::LeaseDesk& leases_of(const AdminCall& call) {
  if (call.parts.leases == nullptr) {
    throw Error(Reaction::Internal, "admin.no-leases", "this daemon has no queue of builds");
  }
  return *call.parts.leases;
}

} // namespace

AdminAnswer show_usage_of_accounts(const AdminCall& call) {
  const auto from = time_option(call, "--from", INT64_MIN);
  const auto to = time_option(call, "--to", INT64_MAX);
  const std::string by = call.command.value("--by").value_or("day");
  using Align = TextTable::Align;
  TextTable table({{"ACCOUNT"},
                   {by == "key"   ? "KEY"
                    : by == "tag" ? "TAG"
                                  : "DAY"},
                   {"BUILDS", Align::Right},
                   {"CPU", Align::Right},
                   {"MEMORY", Align::Right},
                   {"STORED", Align::Right}});
  const auto add = [&table](const std::string& account,
                            const std::string& day,
                            const Spent& spent,
                            const std::string& stored) {
    table.add({account,
               day,
               std::to_string(spent.builds),
               human_duration(static_cast<std::int64_t>(spent.cpu_us)),
               fmt::format("{:.2f} GiB h", spent.memory_gib_seconds / 3600),
               stored});
  };
  json::array list;
  for (const auto& account : accounts_meant(call)) {
    auto& db = call.parts.store.db();
    const auto usage = usage_of(db, account.id, from, to);
    const auto stored = db.stored_bytes(account.id);
    for (const auto& [part, spent] : parts_of(usage, by)) {
      add(account.name, part.empty() ? "-" : part, spent, "");
    }
    add(account.name, "total", usage.sum, human_size(stored));
    auto entry = as_json(usage.sum);
    entry["account"] = account.name;
    entry["storedBytes"] = stored;
    entry["days"] = list_of("day", usage.days);
    entry["keys"] = list_of("key", usage.keys);
    entry["tags"] = list_of("tag", usage.tags);
    list.push_back(std::move(entry));
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

AdminAnswer show_health(const AdminCall& call) {
  const auto loops =
      call.parts.loops != nullptr ? call.parts.loops->report() : std::vector<LoopReport>();
  using Align = TextTable::Align;
  TextTable table(
      {{"LOOP"}, {"LAST", Align::Right}, {"TURNS", Align::Right}, {"FAILED", Align::Right}, {""}});
  json::array list;
  for (const auto& loop : loops) {
    const std::string_view state = loop.failed_again > 0 ? "failing" : loop.late ? "late" : "ok";
    const auto error = loop.failed_again > 0 ? printable(loop.last_error) : std::string();
    table.add({loop.name,
               fmt::format("{:.1f} s", static_cast<double>(loop.age.count()) / 1000),
               std::to_string(loop.turns),
               std::to_string(loop.failures),
               error.empty() ? std::string(state) : fmt::format("{}: {}", state, error)});
    list.push_back(json::object{{"loop", loop.name},
                                {"state", state},
                                {"ageSeconds", static_cast<double>(loop.age.count()) / 1000},
                                {"turns", loop.turns},
                                {"failures", loop.failures},
                                {"failuresInARow", loop.failed_again},
                                {"error", error}});
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text(), all_well(loops) ? 0 : 1};
}

aio::Task<int> drain_builds(AdminCall& call) {
  auto& leases = leases_of(call);
  const bool refuse = call.command.has("--refuse");
  leases.drain(refuse);
  if (call.command.has("--wait")) {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    while (leases.counts().running > 0) {
      timer.expires_after(kDrainPoll);
      co_await timer.async_wait(asio::use_awaitable);
      expect_caller(call);
    }
  }
  const auto counts = leases.counts();
  co_await write_text(*call.out,
                      fmt::format("no more builds are started{}; {} run, {} wait\n",
                                  refuse ? ", new sessions go elsewhere" : "",
                                  counts.running,
                                  counts.builds - counts.running));
  co_return 0;
}

AdminAnswer undrain_builds(const AdminCall& call) {
  leases_of(call).resume();
  return {"builds are started again\n"};
}

} // namespace nixbuild::server
