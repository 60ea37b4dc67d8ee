#pragma once

#include "admin_commands.hpp"

#include <nixbuild/server/admin.hpp>

#include <memory>
#include <string>

namespace nixbuild::server {

/// One administration command being run. Lives as long as the command.
struct AdminCall {
  const SessionParts& parts;
  Handoff handoff;
  Command command;
  store::AccountId account; ///< of `identity`; commands on accounts do without
  std::shared_ptr<aio::ByteStream> out;
  std::shared_ptr<aio::ByteStream> err;
  bool caller_gone = false;              ///< changed and read on the session's strand only
  Identity identity;                     ///< of a command that concerns one account
  std::string input;                     ///< of a command that reads some
  bool machine_readable = false;         ///< `api …`: JSON, errors too
  std::shared_ptr<aio::ByteStream> in{}; ///< of a command that talks with its caller

  /// Error `admin.no-desk` where the daemon has none.
  [[nodiscard]] AccountDesk& desk() const;
  /// Where a command blocks that takes long.
  [[nodiscard]] aio::BlockingPool& slow_pool() const;

  [[nodiscard]] bool json() const { return command.has("--json"); }
};

struct AdminAnswer {
  std::string text;
  int status = 0;
};

/// Runs on the blocking pool.
using BlockingCommand = AdminAnswer (*)(const AdminCall&);
/// Runs on the session's strand and writes by itself. The call outlives it.
using StreamingCommand = aio::Task<int> (*)(AdminCall&);

[[nodiscard]] AdminAnswer add_account(const AdminCall& call);
[[nodiscard]] AdminAnswer list_accounts(const AdminCall& call);
[[nodiscard]] AdminAnswer remove_account(const AdminCall& call);
[[nodiscard]] AdminAnswer add_key(const AdminCall& call);
[[nodiscard]] AdminAnswer list_keys(const AdminCall& call);
[[nodiscard]] AdminAnswer set_key(const AdminCall& call);
[[nodiscard]] AdminAnswer remove_key(const AdminCall& call);
[[nodiscard]] AdminAnswer show_settings(const AdminCall& call);
[[nodiscard]] AdminAnswer set_setting(const AdminCall& call);
[[nodiscard]] AdminAnswer unset_setting(const AdminCall& call);
[[nodiscard]] AdminAnswer show_builds(const AdminCall& call);
[[nodiscard]] AdminAnswer show_usage_of_accounts(const AdminCall& call);
[[nodiscard]] AdminAnswer show_health(const AdminCall& call);
[[nodiscard]] AdminAnswer undrain_builds(const AdminCall& call);
[[nodiscard]] AdminAnswer explain_build(const AdminCall& call);
[[nodiscard]] AdminAnswer cancel_build(const AdminCall& call);
[[nodiscard]] AdminAnswer show_path_infos(const AdminCall& call);
[[nodiscard]] AdminAnswer list_paths(const AdminCall& call);
[[nodiscard]] AdminAnswer collect_garbage(const AdminCall& call);
aio::Task<int> attach_build(AdminCall& call);
aio::Task<int> drain_builds(AdminCall& call);
aio::Task<int> enter_machine(AdminCall& call);
aio::Task<int> print_log(AdminCall& call);
aio::Task<int> print_path(AdminCall& call);
aio::Task<int> verify_paths(AdminCall& call);

/// The account's key with that number as a text. Errors `command.usage`, `key.unknown`.
[[nodiscard]] store::SshKey key_of_account(const AdminCall& call, std::string_view id);

/// Seconds since 1970 of what --expires says; 0: never. Error `command.usage`.
[[nodiscard]] std::int64_t parse_expiry(std::string_view text, std::int64_t now);

/// The build whose number is the first argument. Errors: usage, `admin.no-build`.
[[nodiscard]] store::BuildRecord build_of_argument(const AdminCall& call);
/// `Built`, `waiting`, `running`, …
[[nodiscard]] std::string_view status_name(const store::BuildRecord& record);

/// `shell`: runs one command a line until the input ends or says `exit`; the status is the last
/// command's. The prompt goes to `err`, so that `out` holds answers only. Ends after an hour
/// without a line. Errors: `admin.line` (a line of more than 64 KiB), `stream.*`.
aio::Task<int> run_admin_shell(const SessionParts& parts,
                               Handoff handoff,
                               std::shared_ptr<aio::ByteStream> in,
                               std::shared_ptr<aio::ByteStream> out,
                               std::shared_ptr<aio::ByteStream> err);

/// Writes all of it; a reader may be slow (a pager), but not for ever.
aio::Task<void> write_text(aio::ByteStream& stream, std::string text);

/// Error `admin.caller-gone` when the program that asked has ended.
void expect_caller(const AdminCall& call);

} // namespace nixbuild::server
