#include "api.hpp"

#include <fmt/format.h>

/// The Prometheus text format, version 0.0.4: all names and labels here are our own words, so that
/// nothing needs escaping.
namespace nixbuild::server {

namespace {

enum class Kind : std::uint8_t { Counter, Gauge };

class MetricsText {
public:
  void begin(std::string_view name, Kind kind, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n",
                         name,
                         help,
                         name,
                         kind == Kind::Counter ? "counter" : "gauge");
  }

  template <class Number>
  void value(Number number) {
    text_ += fmt::format("{} {}\n", name_, number);
  }

  template <class Number>
  void value(std::string_view label, std::string_view label_value, Number number) {
    text_ += fmt::format("{}{{{}=\"{}\"}} {}\n", name_, label, label_value, number);
  }

  [[nodiscard]] std::string take() { return std::move(text_); }

private:
  std::string name_;
  std::string text_;
};

constexpr std::array<std::string_view, kSessionProtocols> kProtocolNames = {
    "serve", "worker", "admin"};

void put_builds(MetricsText& text, const ApiCall& call) {
  text.begin("nixbuild_builds_ended_total", Kind::Counter, "Builds that ended, by how.");
  for (std::size_t i = 0; i < kReportedStatusCount; ++i) {
    const auto status = static_cast<ReportedStatus>(i);
    if (has_ended(status)) {
      text.value("status", name_of(status), call.parts.counters.builds_ended(status));
    }
  }
  if (call.hooks.build_load) {
    const auto load = call.hooks.build_load();
    text.begin("nixbuild_builds_running", Kind::Gauge, "Builds that have a machine.");
    text.value(load.running);
    text.begin("nixbuild_builds_waiting", Kind::Gauge, "Builds that wait for a machine.");
    text.value(load.waiting);
  }
  if (call.hooks.machine_walls) {
    const auto walls = call.hooks.machine_walls();
    text.begin("nixbuild_machines_total", Kind::Counter, "Machines that were started for builds.");
    text.value(walls.machines);
    text.begin("nixbuild_machines_weaker_total",
               Kind::Counter,
               "Machines that lacked a wall or a limit (doctor says which).");
    text.value(walls.weaker);
  }
  text.begin("nixbuild_log_bytes_total", Kind::Counter, "Bytes that builders wrote to their logs.");
  text.value(call.parts.counters.log_bytes());
}

void put_host(MetricsText& text, const HostState& host) {
  text.begin("nixbuild_host_faults_total",
             Kind::Counter,
             "Machines that ended by a fault of this host, and attempts to make one that failed.");
  text.value(host.faults);
  text.begin("nixbuild_host_closed", Kind::Gauge, "1 while no machine works here and builds fail.");
  text.value(host.closed ? 1 : 0);
  text.begin("nixbuild_host_without_kvm", Kind::Gauge, "1 once KVM has failed and is not used.");
  text.value(host.without_kvm ? 1 : 0);
}

void put_sessions(MetricsText& text, const ServerCounters& counters) {
  text.begin("nixbuild_sessions_open", Kind::Gauge, "Sessions that are open, by protocol.");
  for (std::size_t i = 0; i < kSessionProtocols; ++i) {
    text.value(
        "protocol", kProtocolNames.at(i), counters.open_sessions(static_cast<SessionProtocol>(i)));
  }
  text.begin("nixbuild_sessions_total", Kind::Counter, "Sessions that began, by protocol.");
  for (std::size_t i = 0; i < kSessionProtocols; ++i) {
    text.value(
        "protocol", kProtocolNames.at(i), counters.sessions(static_cast<SessionProtocol>(i)));
  }
}

void put_http(MetricsText& text, const ApiCall& call) {
  text.begin("nixbuild_http_connections", Kind::Gauge, "HTTP connections that are open.");
  text.value(call.open_connections);
  text.begin("nixbuild_http_requests_total", Kind::Counter, "HTTP requests answered, by status.");
  constexpr unsigned first = 100;
  constexpr unsigned last = 599;
  for (unsigned status = first; status <= last; ++status) {
    if (const auto count = call.parts.counters.http_answers(status); count > 0) {
      text.value("code", std::to_string(status), count);
    }
  }
}

void put_loops(MetricsText& text, const ApiCall& call) {
  if (!call.hooks.loops) {
    return;
  }
  const auto loops = call.hooks.loops();
  const auto put = [&](std::string_view name, Kind kind, std::string_view help, auto figure) {
    text.begin(name, kind, help);
    for (const auto& loop : loops) {
      text.value("loop", loop.name, figure(loop));
    }
  };
  put("nixbuild_loop_age_seconds",
      Kind::Gauge,
      "Since the last turn of the daemon's own loop that went well.",
      [](const LoopReport& loop) {
        return fmt::format("{:.3f}", static_cast<double>(loop.age.count()) / 1000);
      });
  put("nixbuild_loop_turns_total",
      Kind::Counter,
      "Turns of the daemon's own loops that went well.",
      [](const LoopReport& loop) { return loop.turns; });
  put("nixbuild_loop_failures_total",
      Kind::Counter,
      "Turns of the daemon's own loops that failed.",
      [](const LoopReport& loop) { return loop.failures; });
  put("nixbuild_loop_well",
      Kind::Gauge,
      "1: the daemon's own loop does its work; 0: it fails or is late.",
      [](const LoopReport& loop) { return loop.well() ? 1 : 0; });
}

} // namespace

ApiAnswer show_metrics(ApiCall& call) {
  call.query.expect_empty();
  MetricsText text;
  text.begin("nixbuild_build_info", Kind::Gauge, "Always 1; which version runs.");
  text.value("version", NIXBUILD_VERSION, 1);
  text.begin("nixbuild_uptime_seconds", Kind::Gauge, "Since the daemon's start.");
  text.value(fmt::format("{:.3f}", call.uptime_seconds));
  put_builds(text, call);
  if (call.hooks.host_state) {
    put_host(text, call.hooks.host_state());
  }
  put_sessions(text, call.parts.counters);
  if (call.hooks.stored_bytes) {
    text.begin("nixbuild_store_bytes", Kind::Gauge, "Bytes that the store takes on the disk.");
    text.value(call.hooks.stored_bytes());
  }
  put_http(text, call);
  put_loops(text, call);
  ApiAnswer answer;
  answer.type = "text/plain; version=0.0.4; charset=utf-8";
  answer.body = text.take();
  return answer;
}

} // namespace nixbuild::server
