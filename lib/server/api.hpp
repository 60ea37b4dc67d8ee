#pragma once

#include "api_target.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/http.hpp>
#include <nixbuild/server/permissions.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// What the HTTP interface answers, without any network: a request goes in, an answer comes out.
/// Everything may block and runs on the server's pool.
namespace nixbuild::server {

/// Who asks. The default knows nobody.
struct ApiCaller {
  bool owner = false;  ///< the daemon's own user, on its Unix socket: may do everything
  std::string account; ///< of the token; `kWholeServer` for the numbers of all; empty: no token
  Permissions permissions;

  [[nodiscard]] bool known() const noexcept { return owner || !account.empty(); }
};

struct ApiRequest {
  std::string method;
  std::string target;
  std::string body;
  ApiCaller caller;
};

/// A log that is sent in pieces instead of a body.
struct LogRequest {
  store::AccountId account;
  std::int64_t build = 0;
  std::uint64_t offset = 0;
  bool follow = false; ///< until the build ends
};

struct ApiAnswer {
  unsigned status = 200;
  std::string type = "application/json";
  std::string body;
  std::string allow; ///< the methods, with status 405
  std::optional<LogRequest> log;
};

struct LogBytes {
  std::string bytes;  ///< at most 64 KiB
  bool ended = false; ///< nothing more will come
};

/// The one mapping of reactions to HTTP.
[[nodiscard]] unsigned http_status_of(Reaction reaction) noexcept;
/// `{"error": message, "code": code}`.
[[nodiscard]] ApiAnswer
error_answer(unsigned status, std::string_view code, std::string_view message);

class Api {
public:
  /// `open_connections` may be absent. The parts outlive it.
  Api(const HttpParts& parts, HttpHooks hooks, std::function<std::size_t()> open_connections);

  /// Never throws. Codes of its own: `http.token`, `http.permission`, `http.whole-server`,
  /// `http.account-token`, `http.no-such-page`, `http.method`, `http.no-account`, `http.no-build`,
  /// `http.body`, `http.no-setting`, `http.not-offered`, `http.internal`; and those of
  /// parse_target and of the hooks.
  [[nodiscard]] ApiAnswer answer(const ApiRequest& request) const noexcept;

  /// The log's next piece. Errors as LogStore::read.
  [[nodiscard]] LogBytes read_log(const LogRequest& log, std::uint64_t offset) const;

private:
  [[nodiscard]] ApiAnswer dispatch(const ApiRequest& request) const;

  HttpParts parts_;
  HttpHooks hooks_;
  std::function<std::size_t()> open_connections_;
  MonotonicTime started_;
};

/// A request on its way to the function that answers it.
struct ApiCall {
  const HttpParts& parts;
  const HttpHooks& hooks;
  const ApiRequest& request;
  std::vector<std::string> names; ///< the path's variable parts
  Query query;
  store::AccountId account; ///< of the caller, or the one its owner named
  std::string account_name;
  bool all_accounts = false; ///< the owner named none
  std::int64_t now_us = 0;
  double uptime_seconds = 0;
  std::size_t open_connections = 0;
};

[[nodiscard]] ApiAnswer list_builds(ApiCall& call);
[[nodiscard]] ApiAnswer show_build(ApiCall& call);
[[nodiscard]] ApiAnswer show_log(ApiCall& call);
[[nodiscard]] ApiAnswer cancel_build(ApiCall& call);
[[nodiscard]] ApiAnswer show_summary(ApiCall& call);
[[nodiscard]] ApiAnswer show_usage(ApiCall& call);
[[nodiscard]] ApiAnswer list_settings(ApiCall& call);
[[nodiscard]] ApiAnswer get_setting(ApiCall& call);
[[nodiscard]] ApiAnswer put_setting(ApiCall& call);
[[nodiscard]] ApiAnswer delete_setting(ApiCall& call);
[[nodiscard]] ApiAnswer show_metrics(ApiCall& call);

/// The account's build of that number. Error `http.no-build`, the same for a build of another
/// account as for none.
[[nodiscard]] store::BuildRecord find_build(const ApiCall& call, std::string_view number);

/// Which builds are meant.
class BuildFilter {
public:
  /// Takes `tags`, `create_time_from`, `create_time_to` and `status` out. Error `http.query`.
  [[nodiscard]] static BuildFilter take(Query& query);

  [[nodiscard]] bool wants(const store::BuildRecord& record) const;
  [[nodiscard]] bool wants_all() const noexcept;

private:
  std::int64_t from_us_ = INT64_MIN;
  std::int64_t to_us_ = INT64_MAX;
  std::uint32_t statuses_ = UINT32_MAX; ///< bits of ReportedStatus
  std::vector<std::string> tags_;       ///< all of them
};

/// How many of an account's newest builds a filter, a summary or a sum looks at.
inline constexpr std::size_t kMostScanned = 100'000;

/// At most `limit` of the account's builds, newest first.
[[nodiscard]] std::vector<store::BuildRecord>
matching_builds(const ApiCall& call, const BuildFilter& filter, std::size_t limit);

/// From the machine's start to its end, or now; 0 without a start.
[[nodiscard]] std::int64_t duration_us(const ApiCall& call, const store::BuildRecord& record);

} // namespace nixbuild::server
