#include "admin_call.hpp"
#include "admin_text.hpp"
#include "long_work.hpp"

#include <nixbuild/server/ssh_key.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

constexpr std::chrono::hours kSlowReader{24};
constexpr std::chrono::seconds kLastWord{2};

struct Handler {
  std::string_view words;
  BlockingCommand blocking = nullptr;
  StreamingCommand streaming = nullptr;
  bool needs_account = true;
  std::optional<Permission> permission = std::nullopt; ///< without which it is refused
  bool reads_input = false;                            ///< where the one argument is `-`
  bool talks = false;                                  ///< with its caller, who types
  bool takes_long = false; ///< as long as the account's store or its list of builds is large
};

constexpr auto kSeeBuilds = Permission::BuildRead;
constexpr auto kSeePaths = Permission::StoreRead;
constexpr auto kChange = Permission::AccountWrite;

constexpr std::array kHandlers = {
    Handler{"account add", &add_account, nullptr, false},
    Handler{"account list", &list_accounts, nullptr, false},
    Handler{"account remove", &remove_account, nullptr, false, {}, false, false, true},
    Handler{"builds", &show_builds, nullptr, true, kSeeBuilds},
    Handler{"why", &explain_build, nullptr, true, kSeeBuilds},
    Handler{"cancel", &cancel_build, nullptr, true, Permission::BuildWrite},
    Handler{"attach", nullptr, &attach_build, true, kSeeBuilds},
    Handler{"shell", nullptr, &enter_machine, true, Permission::BuildWrite, false, true},
    Handler{"usage", &show_usage_of_accounts, nullptr, true, kSeeBuilds, false, false, true},
    Handler{"health", &show_health, nullptr, false},
    Handler{"drain", nullptr, &drain_builds, false},
    Handler{"undrain", &undrain_builds, nullptr, false},
    Handler{"log", nullptr, &print_log, true, kSeeBuilds},
    Handler{"path info", &show_path_infos, nullptr, true, kSeePaths},
    Handler{"path list", &list_paths, nullptr, true, kSeePaths, false, false, true},
    Handler{"path cat", nullptr, &print_path, true, kSeePaths},
    Handler{"path verify", nullptr, &verify_paths, true, kSeePaths, false, false, true},
    Handler{"gc", &collect_garbage, nullptr, true, {}, false, false, true},
    Handler{"key add", &add_key, nullptr, true, kChange, true},
    Handler{"key list", &list_keys, nullptr, true},
    Handler{"key set", &set_key, nullptr, true, kChange},
    Handler{"key remove", &remove_key, nullptr, true, kChange},
    Handler{"settings show", &show_settings, nullptr, true},
    Handler{"settings set", &set_setting, nullptr, true, kChange},
    Handler{"settings unset", &unset_setting, nullptr, true, kChange},
};

const Handler& handler_of(const CommandSpec& spec) {
  for (const auto& handler : kHandlers) {
    if (handler.words == spec.words) {
      return handler;
    }
  }
  throw Error(
      Reaction::Unsupported,
      "admin.not-here",
      fmt::format("'{}' does not run in the daemon: call the program nixbuild on your own machine",
                  spec.words));
}

void expect_allowed(const Handoff& handoff, const Command& command) {
  const auto account = command.value("--account");
  if (account && *account != handoff.account) {
    throw Error(Reaction::Denied,
                "admin.account",
                fmt::format("this session is limited to the account '{}'", handoff.account));
  }
  if (handoff.limited && !command.spec->limited) {
    throw Error(Reaction::Denied,
                "admin.limited",
                fmt::format("'{}' is not allowed over SSH", command.spec->words));
  }
}

/// What only the identity tells: whether a session over SSH may administrate at all, and whether it
/// may run this command.
void expect_permitted(const AdminCall& call, const Handler& handler) {
  if (call.handoff.limited) {
    EffectiveSettings settings;
    const auto& layers = call.identity.layers;
    settings.set_all(SettingLevel::System, layers.system);
    settings.set_all(SettingLevel::Account, layers.account);
    settings.set_all(SettingLevel::Key, layers.key);
    if (!settings.flag(SettingId::AllowShell)) {
      throw Error(Reaction::Denied,
                  "admin.no-shell",
                  "administration over SSH is switched off (setting allow-shell)");
    }
  }
  if (handler.permission) {
    call.identity.permissions.expect(*handler.permission, fmt::format("'{}'", handler.words));
  }
}

aio::Task<std::string> read_input(std::shared_ptr<aio::ByteStream> in) {
  constexpr std::chrono::seconds slow_writer{60};
  std::string text;
  std::array<std::uint8_t, 4096> buffer{};
  for (;;) {
    const auto count = co_await in->read_some(buffer, slow_writer);
    if (count == 0) {
      co_return text;
    }
    text.append(reinterpret_cast<const char*>(buffer.data()), count);
    if (text.size() > kPublicKeyBytes) {
      throw Error(Reaction::Reject,
                  "admin.input",
                  fmt::format("the input has more than {} bytes", kPublicKeyBytes));
    }
  }
}

/// What the watcher of the caller and the command share; both run on one strand.
struct CallerWatch {
  asio::cancellation_signal stop;
};

aio::Task<void> watch_caller(std::shared_ptr<AdminCall> call, std::shared_ptr<aio::ByteStream> in) {
  co_await in->wait_hang_up();
  call->caller_gone = true;
  call->out->cancel();
}

/// A turn at what takes long, where there are turns; holding it is all that is done with it.
aio::Task<std::optional<LongWork::Turn>> turn_of(AdminCall& call, const Handler& handler) {
  std::optional<LongWork::Turn> turn;
  if (handler.takes_long && call.parts.long_work != nullptr) {
    std::function<void()> still_wanted = [&call] {
      expect_caller(call);
    };
    auto given = co_await call.parts.long_work->turn(call.account, std::move(still_wanted));
    turn.emplace(std::move(given));
  }
  co_return turn;
}

aio::Task<int> take_turn(std::shared_ptr<AdminCall> call, const Handler& handler) {
  const auto turn = co_await turn_of(*call, handler);
  co_return co_await handler.streaming(*call);
}

aio::Task<int> stream(std::shared_ptr<AdminCall> call,
                      std::shared_ptr<aio::ByteStream> in,
                      const Handler& handler) {
  if (call->handoff.limited) {
    // Over SSH the end of the input says nothing: the client may have closed it from the start.
    co_return co_await take_turn(call, handler);
  }
  const auto here = co_await asio::this_coro::executor;
  auto watch = std::make_shared<CallerWatch>();
  auto watcher = watch_caller(call, std::move(in));
  asio::co_spawn(here,
                 std::move(watcher),
                 asio::bind_cancellation_slot(watch->stop.slot(), [watch](std::exception_ptr) {}));
  std::exception_ptr failure;
  int status = 0;
  try {
    status = co_await take_turn(call, handler);
  } catch (...) {
    failure = std::current_exception();
  }
  watch->stop.emit(asio::cancellation_type::terminal);
  if (failure) {
    std::rethrow_exception(failure);
  }
  co_return status;
}

/// Errors are for the next program to read, too.
std::string error_document(const Error& error) {
  boost::json::object what{{"code", error.code()}, {"message", error.message()}};
  return boost::json::serialize(boost::json::object{{"error", std::move(what)}}) + "\n";
}

/// Words that ask for JSON wherever the command has it.
void ask_for_json(Command& command) {
  const auto* spec = command.spec;
  const bool offered =
      spec != nullptr && std::any_of(spec->options.begin(),
                                     spec->options.end(),
                                     [](const auto& option) { return option.name == "--json"; });
  if (offered && !command.has("--json")) {
    command.options.emplace_back("--json", "");
  }
}

aio::Task<int> run(std::shared_ptr<AdminCall> call, std::shared_ptr<aio::ByteStream> in) {
  call->command = parse_command(call->handoff.arguments);
  if (call->command.help) {
    co_await write_text(*call->out, help_text(call->command));
    co_return 0;
  }
  if (call->machine_readable) {
    ask_for_json(call->command);
  }
  expect_allowed(call->handoff, call->command);
  const auto& handler = handler_of(*call->command.spec);
  if (handler.needs_account || call->handoff.limited) {
    auto identify = [call] {
      return call->desk().identify(call->handoff);
    };
    call->identity = co_await call->parts.pool.run(std::move(identify));
    call->account = call->identity.account;
    expect_permitted(*call, handler);
  }
  const auto& arguments = call->command.arguments;
  if (handler.reads_input && arguments.size() == 1 && arguments.front() == "-") {
    if (in == nullptr) {
      throw_usage("the input of a shell is its commands: this one is for a session of its own");
    }
    call->input = co_await read_input(in);
  }
  if (handler.talks) {
    if (in == nullptr) {
      throw_usage("the input of a shell is its commands: this one is for a session of its own");
    }
    call->in = std::move(in);
    co_return co_await handler.streaming(*call);
  }
  if (handler.streaming != nullptr) {
    co_return co_await stream(call, std::move(in), handler);
  }
  auto work = [call, command = handler.blocking] {
    return command(*call);
  };
  const auto turn = co_await turn_of(*call, handler);
  auto& pool = handler.takes_long ? call->slow_pool() : call->parts.pool;
  auto answer = co_await pool.run(std::move(work));
  co_await write_text(*call->out, std::move(answer.text));
  co_return answer.status;
}

} // namespace

aio::Task<void> write_text(aio::ByteStream& stream, std::string text) {
  co_await stream.write_all(bytes_of(text), kSlowReader);
}

AccountDesk& AdminCall::desk() const {
  if (parts.accounts == nullptr) {
    throw Error(Reaction::Internal, "admin.no-desk", "this daemon keeps no keys and settings");
  }
  return *parts.accounts;
}

aio::BlockingPool& AdminCall::slow_pool() const {
  return parts.long_work != nullptr ? parts.long_work->pool : parts.pool;
}

void expect_caller(const AdminCall& call) {
  if (call.caller_gone) {
    throw Error(Reaction::Disconnected, "admin.caller-gone", "the program that asked has ended");
  }
}

aio::Task<int> run_admin_command(const SessionParts& parts,
                                 Handoff handoff,
                                 std::shared_ptr<aio::ByteStream> in,
                                 std::shared_ptr<aio::ByteStream> out,
                                 std::shared_ptr<aio::ByteStream> err) {
  auto& words = handoff.arguments;
  const bool machine_readable = handoff.limited && !words.empty() && words.front() == "api";
  const bool shell = handoff.limited && !words.empty() && words.front() == "shell" &&
                     words.size() == 1 && in != nullptr;
  if (machine_readable) {
    words.erase(words.begin());
  }
  auto call = std::make_shared<AdminCall>(
      AdminCall{parts, std::move(handoff), {}, {}, std::move(out), std::move(err), false, {}, {}});
  call->machine_readable = machine_readable;
  std::string complaint;
  int status = 0;
  try {
    if (shell) {
      co_return co_await run_admin_shell(parts, call->handoff, std::move(in), call->out, call->err);
    }
    co_return co_await run(call, std::move(in));
  } catch (const Error& error) {
    complaint = machine_readable ? error_document(error) : fmt::format("error: {}\n", error.what());
    status = exit_status_of(error);
    if (error.reaction() == Reaction::Internal || error.reaction() == Reaction::Corrupt) {
      parts.log.error(fmt::format("administration: {} [{}]", error.what(), error.code()));
    }
  }
  if (!call->caller_gone) {
    try {
      auto& to = machine_readable ? *call->out : *call->err;
      co_await to.write_all(bytes_of(complaint), kLastWord);
    } catch (const Error&) {
      // Nobody listens; the status still says it.
      status = status == 0 ? 1 : status;
    }
  }
  co_return status;
}

} // namespace nixbuild::server
