#include "account_usage.hpp"
#include "api.hpp"

#include <nixbuild/server/reported_status.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

double seconds(std::uint64_t microseconds) {
  return static_cast<double>(microseconds) / 1e6;
}

void put_into(json::object& object, const Spent& spent) {
  object["billable_build_count"] = spent.builds;
  object["billable_cpu_seconds"] = seconds(spent.cpu_us);
}

/// One object for each part of a sum.
json::array spent_list(std::string_view name, const std::map<std::string, Spent>& parts) {
  json::array list;
  for (const auto& [part, spent] : parts) {
    json::object entry{{name, part}};
    put_into(entry, spent);
    list.push_back(std::move(entry));
  }
  return list;
}

/// How long at least one of them had a machine. Sorts `spans`.
std::int64_t covered_us(std::vector<std::pair<std::int64_t, std::int64_t>> spans) {
  std::sort(spans.begin(), spans.end());
  std::int64_t covered = 0;
  std::int64_t reached = 0;
  for (const auto& [from, to] : spans) {
    covered += std::max<std::int64_t>(to - std::max(from, reached), 0);
    reached = std::max(reached, to);
  }
  return covered;
}

} // namespace

ApiAnswer show_summary(ApiCall& call) {
  const auto filter = BuildFilter::take(call.query);
  call.query.expect_empty();
  std::uint64_t running = 0;
  std::uint64_t discarded = 0;
  std::uint64_t failed = 0;
  std::uint64_t successful = 0;
  std::uint64_t cpu_us = 0;
  std::uint64_t output_bytes = 0;
  std::int64_t duration = 0;
  Spent billable;
  std::vector<std::pair<std::int64_t, std::int64_t>> spans;
  const auto records = matching_builds(call, filter, kMostScanned);
  for (const auto& record : records) {
    const auto status = reported_status(record);
    if (!has_ended(status)) {
      ++running;
    } else if (status == ReportedStatus::Built) {
      ++successful;
    } else if (status == ReportedStatus::Cancelled || status == ReportedStatus::ClientDisconnect) {
      ++discarded;
    } else {
      ++failed;
    }
    cpu_us += record.cpu_us;
    output_bytes += record.output_bytes;
    const auto took = duration_us(call, record);
    duration += took;
    if (took > 0) {
      spans.emplace_back(record.started_us, record.started_us + took);
    }
    if (is_billable(record)) {
      billable.add(spent_by(record));
    }
  }
  json::object object;
  object["build_count"] = records.size();
  object["running_build_count"] = running;
  object["discarded_build_count"] = discarded;
  object["failed_build_count"] = failed;
  object["successful_build_count"] = successful;
  object["total_cpu_seconds"] = seconds(cpu_us);
  object["billable_cpu_seconds"] = seconds(billable.cpu_us);
  object["total_duration_seconds"] = static_cast<double>(duration) / 1e6;
  object["wall_time_seconds"] = static_cast<double>(covered_us(std::move(spans))) / 1e6;
  object["total_output_nar_size_kilobytes"] = output_bytes / kKiB;
  ApiAnswer answer;
  answer.body = json::serialize(object) + "\n";
  return answer;
}

ApiAnswer show_usage(ApiCall& call) {
  const auto from = call.query.take_time("from").value_or(INT64_MIN);
  const auto to = call.query.take_time("to").value_or(INT64_MAX);
  call.query.expect_empty();
  auto& db = call.parts.store.db();
  auto accounts = call.all_accounts ? db.accounts()
                                    : std::vector{store::Account{call.account, call.account_name}};
  std::sort(accounts.begin(), accounts.end(), [](const auto& a, const auto& b) {
    return a.name < b.name;
  });
  Spent total;
  json::array list;
  for (const auto& account : accounts) {
    const auto usage = usage_of(db, account.id, from, to);
    auto day_list = spent_list("date", usage.days);
    json::object entry{{"account", account.name}};
    put_into(entry, usage.sum);
    entry["days"] = std::move(day_list);
    entry["keys"] = spent_list("key", usage.keys);
    entry["tags"] = spent_list("tag", usage.tags);
    list.push_back(std::move(entry));
    total.add(usage.sum);
  }
  json::object object;
  put_into(object, total);
  object["accounts"] = std::move(list);
  ApiAnswer answer;
  answer.body = json::serialize(object) + "\n";
  return answer;
}

} // namespace nixbuild::server
