#include "admin_call.hpp"
#include "admin_text.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/build/lease_desk.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

/// One bar of a build's waterfall, in microseconds from the first one's beginning on.
struct Bar {
  std::string name;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Waiting, then the phases of the last machine: each lasts until the next begins. From the
/// question on.
void add_build(std::vector<Bar>& bars, const store::BuildRecord& record) {
  if (record.started_us == 0) {
    return;
  }
  const auto queued = std::max<std::int64_t>(record.started_us - record.created_us, 0);
  bars.push_back({"queue", 0, queued});
  boost::system::error_code error;
  const auto value = json::parse(record.phases, error);
  if (error || !value.is_object()) {
    return;
  }
  for (const auto& [name, at] : value.get_object()) {
    const auto begin = queued + at.to_number<std::int64_t>();
    bars.back().end = std::max(bars.back().begin, begin);
    bars.push_back({std::string(name), begin, begin});
  }
  if (record.stopped_us != 0) {
    bars.back().end = std::max(bars.back().begin, record.stopped_us - record.created_us);
  }
}

/// What the session did before, the build, and the sending of its outputs.
std::vector<Bar> waterfall_of(const store::BuildRecord& record) {
  std::vector<Bar> bars;
  const auto add = [&](const char* name, store::TimeSpan when) {
    if (when != store::TimeSpan()) {
      bars.push_back({name, when.begin_us - record.created_us, when.end_us - record.created_us});
    }
  };
  add("connect", record.session.connect);
  add("query", record.session.query);
  add("upload", record.session.upload);
  add_build(bars, record);
  add("send", record.session.send);
  std::int64_t first = 0;
  for (const auto& bar : bars) {
    first = std::min(first, bar.begin);
  }
  for (auto& bar : bars) {
    bar.begin -= first;
    bar.end = std::max(bar.end - first, bar.begin);
  }
  return bars;
}

double seconds_until(const AdminCall& call, MonotonicTime when) {
  return std::chrono::duration<double>(when - call.parts.leases->now()).count();
}

json::object as_json(const AdminCall& call, const scheduler::Explanation& why) {
  json::object object{{"phase", scheduler::name_of(why.phase)},
                      {"waitingFor", scheduler::name_of(why.waiting_for)},
                      {"detail", why.detail},
                      {"aheadInAccount", why.ahead_in_account},
                      {"accountsAhead", why.accounts_ahead},
                      {"attempt", why.attempt},
                      {"restarts", why.restarts},
                      {"node", why.node},
                      {"cpus", why.cpus},
                      {"memoryBytes", why.memory_bytes},
                      {"whySize", why.why_size}};
  object["expectedStartSeconds"] = why.expected_start
                                       ? json::value(seconds_until(call, *why.expected_start))
                                       : json::value(nullptr);
  object["expectedEndSeconds"] =
      why.expected_end ? json::value(seconds_until(call, *why.expected_end)) : json::value(nullptr);
  return object;
}

std::string in_seconds(const AdminCall& call, MonotonicTime when) {
  return human_duration(static_cast<std::int64_t>(std::max(0.0, seconds_until(call, when)) * 1e6));
}

std::string as_text(const AdminCall& call, const scheduler::Explanation& why) {
  std::string text = fmt::format("now          {}: {}\n",
                                 scheduler::name_of(why.phase),
                                 why.detail.empty() ? "nothing holds it up" : why.detail);
  if (why.waiting_for != scheduler::WaitingFor::Nothing) {
    text += fmt::format("before it    {} of this account, {} other accounts\n",
                        why.ahead_in_account,
                        why.accounts_ahead);
  }
  if (why.expected_start) {
    text += fmt::format("starts in    about {}\n", in_seconds(call, *why.expected_start));
  }
  if (!why.node.empty()) {
    text += fmt::format("runs on      {}, try {}\n", why.node, why.attempt);
  }
  if (!why.why_size.empty()) {
    text += fmt::format("size         {}\n", why.why_size);
  }
  if (why.expected_end) {
    text += fmt::format("ends in      about {}\n", in_seconds(call, *why.expected_end));
  }
  return text;
}

std::string bars_as_text(const std::vector<Bar>& bars) {
  constexpr std::int64_t width = 40;
  std::int64_t whole = 1;
  for (const auto& bar : bars) {
    whole = std::max(whole, bar.end);
  }
  std::string text;
  for (const auto& bar : bars) {
    const auto from = std::min(bar.begin * width / whole, width - 1);
    const auto to = std::clamp(bar.end * width / whole, from + 1, width);
    text += fmt::format("  {:<10} {}{}{} {}\n",
                        printable(bar.name),
                        std::string(static_cast<std::size_t>(from), '.'),
                        std::string(static_cast<std::size_t>(to - from), '#'),
                        std::string(static_cast<std::size_t>(width - to), '.'),
                        human_duration(bar.end - bar.begin));
  }
  return text;
}

/// The marked lines of the log: why the build waited, was started again, or where its result comes
/// from. A derivation's program may write such lines, too, so they are cut and made printable. Of
/// long logs the beginning.
std::vector<std::string> story_of(const AdminCall& call, const store::BuildRecord& record) {
  constexpr std::size_t kMost = 16 * kMiB;
  constexpr std::size_t kLines = 100;
  constexpr std::size_t kLineBytes = 1000;
  constexpr std::string_view kMark = "[nixbuild] ";
  const auto log = call.parts.logs.read(record.id, 0, kMost).value_or(std::string());
  std::vector<std::string> lines;
  std::string_view rest = log;
  while (!rest.empty() && lines.size() < kLines) {
    const auto end = std::min(rest.find('\n'), rest.size());
    const auto line = rest.substr(0, end);
    if (line.starts_with(kMark)) {
      lines.push_back(printable(line.substr(kMark.size(), kLineBytes)));
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return lines;
}

} // namespace

AdminAnswer explain_build(const AdminCall& call) {
  const auto record = build_of_argument(call);
  const auto bars = waterfall_of(record);
  const auto story = story_of(call, record);
  std::optional<scheduler::Explanation> why;
  if (call.parts.leases != nullptr && !record.status) {
    why = call.parts.leases->explain(static_cast<scheduler::BuildId>(record.id));
  }
  if (call.json()) {
    json::array steps;
    for (const auto& bar : bars) {
      steps.push_back(json::object{
          {"name", bar.name}, {"beginMicroseconds", bar.begin}, {"endMicroseconds", bar.end}});
    }
    json::object object{{"id", record.id},
                        {"derivation", record.derivation},
                        {"status", status_name(record)},
                        {"error", record.error},
                        {"attempt", record.attempt},
                        {"story", json::array(story.begin(), story.end())},
                        {"waterfall", std::move(steps)}};
    object["scheduler"] = why ? json::value(as_json(call, *why)) : json::value(nullptr);
    return {json::serialize(object) + "\n"};
  }
  auto text = fmt::format("build        {}, {}\nstatus       {}\n",
                          record.id,
                          printable(record.derivation),
                          status_name(record));
  if (!record.error.empty()) {
    text += fmt::format("because      {}\n", printable(record.error));
  }
  if (record.attempt > 1) {
    text += fmt::format("machines     {}\n", record.attempt);
  }
  for (const auto& line : story) {
    text += fmt::format("{:<12} {}\n", &line == &story.front() ? "said" : "", line);
  }
  if (why) {
    text += as_text(call, *why);
  }
  return {text + bars_as_text(bars)};
}

AdminAnswer cancel_build(const AdminCall& call) {
  const auto record = build_of_argument(call);
  if (record.status || !call.parts.builds.cancel(call.account, record.id)) {
    throw Error(Reaction::NotFound,
                "admin.build-over",
                fmt::format("build {} does not run any more: it ended with '{}'",
                            record.id,
                            status_name(record)));
  }
  return {fmt::format("build {} is being stopped\n", record.id)};
}

} // namespace nixbuild::server
