#include "api.hpp"

#include "http_tokens.hpp"

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <span>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

using ApiHandler = ApiAnswer (*)(ApiCall&);

/// For whom a page is.
enum class Scope : std::uint8_t { Account, Server };

struct Route {
  std::string_view method;
  std::array<std::string_view, 3> parts; ///< `*`: any; an empty one: the path has ended
  Permission permission;
  ApiHandler handler;
  Scope scope = Scope::Account;
};

/// The first row that fits is taken.
constexpr std::array kRoutes = {
    Route{"GET", {"builds"}, Permission::BuildRead, &list_builds},
    Route{"GET", {"builds", "summary"}, Permission::BuildRead, &show_summary},
    Route{"GET", {"builds", "*"}, Permission::BuildRead, &show_build},
    Route{"GET", {"builds", "*", "log"}, Permission::BuildRead, &show_log},
    Route{"POST", {"builds", "*", "cancel"}, Permission::BuildWrite, &cancel_build},
    Route{"GET", {"usage"}, Permission::BuildRead, &show_usage},
    Route{"GET", {"settings"}, Permission::BuildRead, &list_settings},
    Route{"GET", {"settings", "*"}, Permission::BuildRead, &get_setting},
    Route{"PUT", {"settings", "*"}, Permission::AccountWrite, &put_setting},
    Route{"DELETE", {"settings", "*"}, Permission::AccountWrite, &delete_setting},
    Route{"GET", {"metrics"}, Permission::BuildRead, &show_metrics, Scope::Server},
};

bool fits(const Route& route, std::span<const std::string> segments) {
  for (std::size_t i = 0; i < route.parts.size(); ++i) {
    const bool there = i < segments.size();
    if (there == route.parts[i].empty() ||
        (there && route.parts[i] != "*" && route.parts[i] != segments[i])) {
      return false;
    }
  }
  return segments.size() <= route.parts.size();
}

struct Found {
  const Route* route = nullptr;
  std::string allow; ///< what the path knows; empty: there is no such path
};

Found find_route(std::string_view method, std::span<const std::string> segments) {
  // A head is a page whose body is left out.
  const auto wanted = method == "HEAD" ? std::string_view("GET") : method;
  Found found;
  for (const auto& route : kRoutes) {
    if (fits(route, segments)) {
      if (route.method == wanted && found.route == nullptr) {
        found.route = &route;
      }
      if (found.allow.find(route.method) == std::string::npos) {
        found.allow += (found.allow.empty() ? "" : ", ") + std::string(route.method);
      }
    }
  }
  if (found.allow.find("GET") != std::string::npos) {
    found.allow += ", HEAD";
  }
  return found;
}

[[noreturn]] void deny(std::string_view code, std::string message) {
  throw Error(Reaction::Denied, code, std::move(message));
}

void expect_allowed(const ApiCaller& caller, const Route& route) {
  if (caller.owner) {
    return;
  }
  const bool whole_server = caller.account == kWholeServer;
  if (whole_server && route.scope != Scope::Server) {
    deny("http.whole-server", "this token sees the numbers of the server only (/metrics)");
  }
  if (!whole_server && route.scope == Scope::Server) {
    deny("http.account-token",
         "this token sees its account only; nixbuild token add --metrics makes one for /metrics");
  }
  if (!caller.permissions.has(route.permission)) {
    deny("http.permission",
         fmt::format("this token does not have the permission {}", name_of(route.permission)));
  }
}

/// Finds out whose things are meant. A token that names another account learns nothing about
/// whether there is one.
void find_account(ApiCall& call) {
  const auto& caller = call.request.caller;
  const auto named = call.query.take("account");
  const auto no_account = [] {
    return Error(Reaction::NotFound, "http.no-account", "there is no such account");
  };
  if (!caller.owner && named && *named != caller.account) {
    throw no_account();
  }
  call.all_accounts = caller.owner && !named;
  call.account_name = caller.owner ? named.value_or("default") : caller.account;
  const auto account = call.parts.store.db().find_account(call.account_name);
  if (!account) {
    throw no_account();
  }
  call.account = *account;
}

} // namespace

unsigned http_status_of(Reaction reaction) noexcept {
  switch (reaction) {
  case Reaction::Reject:
    return 400;
  case Reaction::Denied:
    return 403;
  case Reaction::NotFound:
    return 404;
  case Reaction::Cancelled:
    return 409;
  case Reaction::Unsupported:
    return 501;
  case Reaction::Busy:
  case Reaction::Disconnected:
    return 503;
  case Reaction::Timeout:
    return 504;
  case Reaction::Corrupt:
  case Reaction::Internal:
    break;
  }
  return 500;
}

ApiAnswer error_answer(unsigned status, std::string_view code, std::string_view message) {
  ApiAnswer answer;
  answer.status = status;
  answer.body = json::serialize(json::object{{"error", message}, {"code", code}}) + "\n";
  return answer;
}

Api::Api(const HttpParts& parts, HttpHooks hooks, std::function<std::size_t()> open_connections)
    : parts_(parts), hooks_(std::move(hooks)), open_connections_(std::move(open_connections)),
      started_(parts.clock.monotonic()) {}

ApiAnswer Api::dispatch(const ApiRequest& request) const {
  auto target = parse_target(request.target);
  if (target.segments == std::vector<std::string>{"healthz"}) {
    if (request.method != "GET" && request.method != "HEAD") {
      auto answer = error_answer(405, "http.method", "only GET is known here");
      answer.allow = "GET, HEAD";
      return answer;
    }
    ApiAnswer answer;
    answer.type = "text/plain; charset=utf-8";
    const auto loops = hooks_.loops ? hooks_.loops() : std::vector<LoopReport>();
    const bool closed = hooks_.host_state && hooks_.host_state().closed;
    answer.status = all_well(loops) && !closed ? 200 : 503;
    answer.body = health_text(loops);
    if (closed) {
      const auto rest = answer.body.substr(std::min(answer.body.find('\n'), answer.body.size()));
      answer.body = "failing" + rest + "no machine works on this host: builds fail\n";
    }
    return answer;
  }
  // What there is to see is said to those only who may see something.
  if (!request.caller.known()) {
    return error_answer(401, "http.token", "a valid token is needed: Authorization: Bearer nxb_…");
  }
  const auto found = find_route(request.method, target.segments);
  if (found.allow.empty()) {
    throw Error(Reaction::NotFound, "http.no-such-page", "there is no such page");
  }
  if (found.route == nullptr) {
    auto answer = error_answer(405, "http.method", "only " + found.allow + " is known here");
    answer.allow = found.allow;
    return answer;
  }
  expect_allowed(request.caller, *found.route);
  ApiCall call{parts_, hooks_, request, {}, std::move(target.query), {}, {}, false, 0, 0, 0};
  for (std::size_t i = 0; i < target.segments.size(); ++i) {
    if (found.route->parts[i] == "*") {
      call.names.push_back(std::move(target.segments[i]));
    }
  }
  call.now_us =
      std::chrono::duration_cast<std::chrono::microseconds>(parts_.clock.wall().time_since_epoch())
          .count();
  call.uptime_seconds = std::chrono::duration<double>(parts_.clock.monotonic() - started_).count();
  call.open_connections = open_connections_ ? open_connections_() : 0;
  if (found.route->scope == Scope::Account) {
    find_account(call);
  }
  return found.route->handler(call);
}

ApiAnswer Api::answer(const ApiRequest& request) const noexcept {
  try {
    return dispatch(request);
  } catch (const Error& error) {
    const auto status = http_status_of(error.reaction());
    if (status != 500) {
      return error_answer(status, error.code(), error.what());
    }
    parts_.log.error(fmt::format("HTTP: {} [{}]", error.what(), error.code()));
  } catch (const std::exception& error) {
    parts_.log.error(fmt::format("HTTP: {}", error.what()));
  }
  // What is wrong inside is nothing for a client.
  return error_answer(500, "http.internal", "something went wrong; the daemon's log says what");
}

} // namespace nixbuild::server
