#include "admin_text.hpp"
#include "api.hpp"
#include "api_time.hpp"

#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/server/reported_status.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

constexpr std::uint64_t kDefaultBuilds = 50;
constexpr std::uint64_t kMostListed = 1000;
constexpr std::size_t kAnsweredLogPiece = 64 * kKiB;

double seconds(std::int64_t microseconds) {
  return static_cast<double>(microseconds) / 1e6;
}

/// Until the machine started, the build ended, or now.
std::int64_t queue_us(const store::BuildRecord& record, std::int64_t now_us) {
  const auto end = record.started_us != 0   ? record.started_us
                   : record.stopped_us != 0 ? record.stopped_us
                                            : now_us;
  return std::max<std::int64_t>(end - record.created_us, 0);
}

/// A measured amount, or null where nothing was measured.
json::value kibibytes_or_null(std::uint64_t bytes) {
  return bytes == 0 ? json::value(nullptr) : json::value(bytes / kKiB);
}

json::object tags_as_json(const std::set<std::string>& tags) {
  json::object object;
  for (const auto& tag : tags) {
    const auto colon = std::min(tag.find(':'), tag.size() - 1);
    object[tag.substr(0, colon)] = tag.substr(colon + 1);
  }
  return object;
}

json::value outputs_as_json(const ApiCall& call, const store::BuildRecord& record) {
  if (record.outputs.empty()) {
    return nullptr;
  }
  json::array list;
  for (const auto& output : record.outputs) {
    list.push_back(json::object{{"name", output.name},
                                {"path", call.parts.store.dir().print(output.path)},
                                {"nar_hash", model::hash_sri(output.nar_hash)},
                                {"nar_size_bytes", output.nar_size}});
  }
  return list;
}

json::object as_json(const ApiCall& call, const store::BuildRecord& record) {
  const auto status = reported_status(record);
  json::object object;
  object["build_id"] = record.id;
  object["create_time"] = time_or_null(record.created_us);
  object["start_time"] = time_or_null(record.started_us);
  object["queue_time_seconds"] = seconds(queue_us(record, call.now_us));
  object["duration_seconds"] = record.started_us == 0
                                   ? json::value(nullptr)
                                   : json::value(seconds(duration_us(call, record)));
  object["build_status"] = name_of(status);
  object["status_message"] =
      record.error.empty() ? json::value(nullptr) : json::value(record.error);
  object["cpu_count"] = record.cpus;
  object["allocated_megabytes"] = record.memory_bytes / kMiB;
  object["cpu_seconds"] = has_ended(status) && record.started_us != 0
                              ? json::value(static_cast<double>(record.cpu_us) / 1e6)
                              : json::value(nullptr);
  object["peak_memory_use_kilobytes"] = kibibytes_or_null(record.peak_memory_bytes);
  object["peak_storage_use_kilobytes"] = kibibytes_or_null(record.disk_bytes);
  object["derivation_path"] = call.parts.store.dir().text() + "/" + record.derivation;
  object["outputs"] = outputs_as_json(call, record);
  object["system"] = record.platform;
  object["tags"] = tags_as_json(record.tags);
  object["restart_of_build_id"] = nullptr;
  object["restarted_as_build_id"] = nullptr;
  object["log_size_bytes"] = record.log_bytes;
  return object;
}

ApiAnswer json_answer(const json::value& value) {
  ApiAnswer answer;
  answer.body = json::serialize(value) + "\n";
  return answer;
}

} // namespace

std::int64_t duration_us(const ApiCall& call, const store::BuildRecord& record) {
  if (record.started_us == 0) {
    return 0;
  }
  if (!record.status && call.hooks.running_for) {
    if (const auto running = call.hooks.running_for(record.account, record.id)) {
      return running->count();
    }
  }
  const auto end = record.stopped_us != 0 ? record.stopped_us : call.now_us;
  return std::max<std::int64_t>(end - record.started_us, 0);
}

store::BuildRecord find_build(const ApiCall& call, std::string_view text) {
  std::int64_t number = 0;
  const auto* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  std::optional<store::BuildRecord> record;
  if (error == std::errc() && end == last && number > 0) {
    record = call.parts.store.db().build(call.account, number);
  }
  if (!record) {
    throw Error(Reaction::NotFound, "http.no-build", "there is no such build");
  }
  return std::move(*record);
}

BuildFilter BuildFilter::take(Query& query) {
  BuildFilter filter;
  filter.from_us_ = query.take_time("create_time_from").value_or(filter.from_us_);
  filter.to_us_ = query.take_time("create_time_to").value_or(filter.to_us_);
  if (const auto list = query.take("status")) {
    filter.statuses_ = 0;
    for (const auto word : split_list(*list)) {
      const auto status = reported_status_named(word);
      if (!status) {
        throw_query("status", "a list of: built, build_failed, running, …");
      }
      filter.statuses_ |= 1U << static_cast<unsigned>(*status);
    }
  }
  if (const auto list = query.take("tags")) {
    for (const auto word : split_list(*list)) {
      if (const auto colon = word.find(':'); colon == 0 || colon == std::string_view::npos) {
        throw_query("tags", "a list of NAME:VALUE");
      }
      filter.tags_.emplace_back(word);
    }
  }
  return filter;
}

bool BuildFilter::wants_all() const noexcept {
  return from_us_ == INT64_MIN && to_us_ == INT64_MAX && statuses_ == UINT32_MAX && tags_.empty();
}

bool BuildFilter::wants(const store::BuildRecord& record) const {
  const auto has = [&record](const std::string& tag) {
    return record.tags.contains(tag);
  };
  return std::all_of(tags_.begin(), tags_.end(), has) && record.created_us >= from_us_ &&
         record.created_us < to_us_ &&
         (statuses_ >> static_cast<unsigned>(reported_status(record)) & 1U) != 0;
}

std::vector<store::BuildRecord>
matching_builds(const ApiCall& call, const BuildFilter& filter, std::size_t limit) {
  constexpr std::size_t growth = 8;
  auto look_at = filter.wants_all() ? limit : std::min(limit * growth, kMostScanned);
  for (;;) {
    auto records = call.parts.store.db().builds(call.account, look_at);
    const bool last = records.size() < look_at || look_at >= kMostScanned;
    std::erase_if(records, [&](const auto& record) { return !filter.wants(record); });
    if (records.size() >= limit || last) {
      records.resize(std::min(records.size(), limit));
      return records;
    }
    look_at = std::min(look_at * growth, kMostScanned);
  }
}

ApiAnswer list_builds(ApiCall& call) {
  const auto filter = BuildFilter::take(call.query);
  const auto limit = call.query.take_number("limit", 1, kMostListed).value_or(kDefaultBuilds);
  call.query.expect_empty();
  json::array list;
  for (const auto& record : matching_builds(call, filter, limit)) {
    list.push_back(as_json(call, record));
  }
  return json_answer(list);
}

ApiAnswer show_build(ApiCall& call) {
  call.query.expect_empty();
  return json_answer(as_json(call, find_build(call, call.names.at(0))));
}

ApiAnswer show_log(ApiCall& call) {
  LogRequest log;
  log.follow = call.query.take_flag("follow");
  log.offset = call.query.take_number("offset", 0, INT64_MAX).value_or(0);
  call.query.expect_empty();
  log.account = call.account;
  log.build = find_build(call, call.names.at(0)).id;
  ApiAnswer answer;
  answer.type = "text/plain; charset=utf-8";
  answer.log = log;
  return answer;
}

LogBytes Api::read_log(const LogRequest& log, std::uint64_t offset) const {
  // Asked before reading, so that nothing written in between is left out.
  bool finished = !log.follow || parts_.logs.finished(log.build);
  if (!finished) {
    const auto record = parts_.store.db().build(log.account, log.build);
    finished = !record || record->status.has_value();
  }
  LogBytes piece;
  piece.bytes = parts_.logs.read(log.build, offset, kAnsweredLogPiece).value_or(std::string());
  piece.ended = finished && piece.bytes.empty();
  return piece;
}

ApiAnswer cancel_build(ApiCall& call) {
  call.query.expect_empty();
  const auto record = find_build(call, call.names.at(0));
  if (!call.hooks.cancel) {
    throw Error(Reaction::Unsupported,
                "http.not-offered",
                "this daemon cannot cancel builds by their number");
  }
  const bool cancelled = !record.status && call.hooks.cancel(call.account, record.id);
  return json_answer(json::object{{"build_id", record.id}, {"cancelled", cancelled}});
}

} // namespace nixbuild::server
