#include "admin_call.hpp"
#include "admin_text.hpp"
#include "api_time.hpp"

#include <nixbuild/model/hash_text.hpp>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::uint64_t kDefaultLimit = 50;
constexpr std::uint64_t kMostBuilds = 1'000'000;
constexpr std::size_t kLogPiece = 64 * kKiB;
constexpr std::chrono::milliseconds kLogPoll{200};

std::int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// Nothing when the text is no number.
std::optional<std::int64_t> parse_number(const std::string& text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size() && number >= 0;
  return whole ? std::optional(number) : std::nullopt;
}

store::BuildRecord find_build(const AdminCall& call, std::int64_t number) {
  auto record = call.parts.store.db().build(call.account, number);
  if (!record) {
    throw Error(Reaction::NotFound,
                "admin.no-build",
                fmt::format("account '{}' has no build {}", call.handoff.account, number));
  }
  return std::move(*record);
}

/// The newest build of a derivation, or the one that made an output. Mostly a new one is meant, so
/// it looks at few first.
store::BuildRecord find_build(const AdminCall& call, const model::StorePath& path) {
  const auto made_it = [&](const auto& output) {
    return output.path == path;
  };
  for (const std::size_t limit : {std::size_t{1000}, std::size_t{kMostBuilds}}) {
    auto builds = call.parts.store.db().builds(call.account, limit);
    for (auto& record : builds) {
      if (record.derivation == path.base_name() ||
          std::any_of(record.outputs.begin(), record.outputs.end(), made_it)) {
        return std::move(record);
      }
    }
    if (builds.size() < limit) {
      break;
    }
  }
  throw Error(Reaction::NotFound,
              "admin.no-build",
              fmt::format("account '{}' has no build of '{}'",
                          call.handoff.account,
                          call.parts.store.dir().print(path)));
}

} // namespace

std::string_view status_name(const store::BuildRecord& record) {
  if (record.status) {
    return model::name_of(*record.status);
  }
  return record.started_us == 0 ? "waiting" : "running";
}

store::BuildRecord build_of_argument(const AdminCall& call) {
  const auto& text = call.command.arguments.at(0);
  if (const auto number = parse_number(text)) {
    return find_build(call, *number);
  }
  std::optional<model::StorePath> path;
  try {
    const bool whole = text.starts_with('/');
    path = whole ? call.parts.store.dir().parse(text) : model::StorePath::parse(text);
  } catch (const Error&) {
    throw_usage(fmt::format("'{}' is neither a build number nor a store path", printable(text)));
  }
  return find_build(call, *path);
}

namespace {

/// From the start, or the question where it waits, to the end, or now. Of one that runs by a clock
/// that nobody sets.
std::int64_t record_duration_us(const AdminCall& call, const store::BuildRecord& record) {
  if (record.started_us != 0 && !record.status) {
    if (const auto since = call.parts.builds.running_since(record.account, record.id)) {
      return std::chrono::duration_cast<std::chrono::microseconds>(call.parts.clock.monotonic() -
                                                                   *since)
          .count();
    }
  }
  const auto from = record.started_us != 0 ? record.started_us : record.created_us;
  const auto to = record.stopped_us != 0 ? record.stopped_us : now_us();
  return from == 0 || to < from ? 0 : to - from;
}

json::value parse_phases(const store::BuildRecord& record) {
  boost::system::error_code error;
  auto value = json::parse(record.phases, error);
  return error || !value.is_object() ? json::value(json::object{}) : value;
}

json::array outputs_as_json(const model::StoreDir& dir, const store::BuildRecord& record) {
  json::array list;
  for (const auto& output : record.outputs) {
    list.push_back(json::object{{"name", output.name},
                                {"path", dir.print(output.path)},
                                {"narHash", model::hash_sri(output.nar_hash)},
                                {"narSize", output.nar_size}});
  }
  return list;
}

json::object as_json(const AdminCall& call, const store::BuildRecord& record) {
  const auto& dir = call.parts.store.dir();
  return json::object{
      {"id", record.id},
      {"derivation", record.derivation},
      {"platform", record.platform},
      {"status", status_name(record)},
      {"error", record.error},
      {"created", time_or_null(record.created_us)},
      {"started", time_or_null(record.started_us)},
      {"stopped", time_or_null(record.stopped_us)},
      {"durationSeconds", static_cast<double>(record_duration_us(call, record)) / 1e6},
      {"cpus", record.cpus},
      {"memoryBytes", record.memory_bytes},
      {"peakMemoryBytes", record.peak_memory_bytes},
      {"cpuSeconds", static_cast<double>(record.cpu_us) / 1e6},
      {"logBytes", record.log_bytes},
      {"diskBytes", record.disk_bytes},
      {"outputBytes", record.output_bytes},
      {"outputs", outputs_as_json(dir, record)},
      {"key", record.ssh_key},
      {"tags", json::array(record.tags.begin(), record.tags.end())},
      {"accelerator", record.accelerator},
      {"phasesMicroseconds", parse_phases(record)}};
}

std::string as_text(const AdminCall& call, const store::BuildRecord& record) {
  const auto& dir = call.parts.store.dir();
  std::string text;
  const auto line = [&](std::string_view name, std::string_view value) {
    text += fmt::format("{:<12} {}\n", name, printable(value));
  };
  line("build", std::to_string(record.id));
  line("status", status_name(record));
  if (!record.error.empty()) {
    line("error", record.error);
  }
  line("derivation", record.derivation);
  line("platform", record.platform);
  line("created", human_time(record.created_us / 1'000'000));
  line("started", human_time(record.started_us / 1'000'000));
  line("stopped", human_time(record.stopped_us / 1'000'000));
  line("time", human_duration(record_duration_us(call, record)));
  line("machine",
       fmt::format("{} cpus, {}, {}",
                   record.cpus,
                   human_size(record.memory_bytes),
                   record.accelerator.empty() ? "-" : record.accelerator));
  line("used",
       fmt::format("{} of cpu, {} of memory, {} of disk",
                   human_duration(static_cast<std::int64_t>(record.cpu_us)),
                   human_size(record.peak_memory_bytes),
                   human_size(record.disk_bytes)));
  line("outputs", human_size(record.output_bytes));
  for (const auto& output : record.outputs) {
    line("  " + output.name,
         fmt::format("{}, {}", dir.print(output.path), human_size(output.nar_size)));
  }
  if (!record.tags.empty()) {
    line("tags", fmt::format("{}", fmt::join(record.tags, ", ")));
  }
  line("log", human_size(record.log_bytes));
  const auto phases = parse_phases(record);
  for (const auto& [phase, took] : phases.as_object()) {
    if (took.is_number()) {
      line("  " + std::string(phase), human_duration(took.to_number<std::int64_t>()));
    }
  }
  return text;
}

bool wanted(const AdminCall& call, const store::BuildRecord& record) {
  const bool running = call.command.has("--running");
  const bool failed = call.command.has("--failed");
  if (!running && !failed) {
    return true;
  }
  return (running && !record.status) ||
         (failed && record.status && !model::is_success(*record.status));
}

struct LogPiece {
  std::string bytes;
  bool ended = false;
};

/// The log from `offset` on. What was asked before reading decides whether it ended, so that no
/// last line is lost.
LogPiece read_log(const AdminCall& call, std::int64_t number, std::uint64_t offset) {
  auto& logs = call.parts.logs;
  const bool finished = logs.finished(number) || find_build(call, number).status.has_value();
  auto bytes = logs.read(number, offset, kLogPiece);
  LogPiece piece;
  piece.bytes = std::move(bytes).value_or(std::string());
  piece.ended = finished && piece.bytes.empty();
  return piece;
}

} // namespace

AdminAnswer show_builds(const AdminCall& call) {
  if (!call.command.arguments.empty()) {
    const auto record = build_of_argument(call);
    return {call.json() ? json::serialize(as_json(call, record)) + "\n" : as_text(call, record)};
  }
  const auto limit = std::min(call.command.number("--limit", kDefaultLimit), kMostBuilds);
  const bool all = !call.command.has("--running") && !call.command.has("--failed");
  using Align = TextTable::Align;
  TextTable table({{"BUILD", Align::Right},
                   {"STATUS"},
                   {"STARTED"},
                   {"TIME", Align::Right},
                   {"LOG", Align::Right},
                   {"DERIVATION"}});
  json::array list;
  for (const auto& record : call.parts.store.db().builds(call.account, all ? limit : kMostBuilds)) {
    if (list.size() >= limit) {
      break;
    }
    if (wanted(call, record)) {
      table.add({std::to_string(record.id),
                 std::string(status_name(record)),
                 human_time(record.started_us / 1'000'000),
                 human_duration(record_duration_us(call, record)),
                 human_size(record.log_bytes),
                 record.derivation});
      list.push_back(as_json(call, record));
    }
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

namespace {

/// Writes the log from its first line on; all there is, or with `follow` until the build ends.
aio::Task<void> send_log(AdminCall& call, std::int64_t number, bool follow) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  std::uint64_t offset = 0;
  for (;;) {
    auto read = [&call, number, offset] {
      return read_log(call, number, offset);
    };
    auto piece = co_await call.parts.pool.run(std::move(read));
    offset += piece.bytes.size();
    const bool nothing = piece.bytes.empty();
    co_await write_text(*call.out, std::move(piece.bytes));
    if (piece.ended || (nothing && !follow)) {
      co_return;
    }
    if (nothing) {
      timer.expires_after(kLogPoll);
      co_await timer.async_wait(asio::use_awaitable);
      expect_caller(call);
    }
  }
}

aio::Task<store::BuildRecord> look_up_argument(AdminCall& call) {
  auto find = [&call] {
    return build_of_argument(call);
  };
  co_return co_await call.parts.pool.run(std::move(find));
}

aio::Task<store::BuildRecord> look_up(AdminCall& call, std::int64_t number) {
  auto find = [&call, number] {
    return find_build(call, number);
  };
  co_return co_await call.parts.pool.run(std::move(find));
}

/// One line that says how it ended.
std::string end_of(const AdminCall& call, const store::BuildRecord& record) {
  return fmt::format("build {}: {} after {}{}{}\n",
                     record.id,
                     status_name(record),
                     human_duration(record_duration_us(call, record)),
                     record.error.empty() ? "" : ": ",
                     printable(record.error));
}

} // namespace

aio::Task<int> print_log(AdminCall& call) {
  const auto record = co_await look_up_argument(call);
  co_await send_log(call, record.id, call.command.has("--follow"));
  co_return 0;
}

aio::Task<int> attach_build(AdminCall& call) {
  auto record = co_await look_up_argument(call);
  const auto number = record.id;
  co_await send_log(call, number, true);
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    record = co_await look_up(call, number);
    if (record.status) {
      break;
    }
    timer.expires_after(kLogPoll);
    co_await timer.async_wait(asio::use_awaitable);
    expect_caller(call);
  }
  co_await write_text(*call.err, end_of(call, record));
  co_return model::is_success(*record.status) ? 0 : 1;
}

} // namespace nixbuild::server
