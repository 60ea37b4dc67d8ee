#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/error.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The words of `nixbuild`: one table of commands with their options and help, and the parser of a
/// command line. The program and the daemon read the same table.
namespace nixbuild::server {

enum class CommandPlace : std::uint8_t {
  Daemon, ///< handed over to the daemon
  Here,   ///< runs inside the program that was called
};

struct OptionSpec {
  std::string_view name;  ///< `--json`
  std::string_view value; ///< what its value is called; empty: it takes none
  std::string_view help;
};

/// Of every listing.
inline constexpr OptionSpec kJson{"--json", "", "one JSON value instead of a table"};

struct CommandSpec {
  std::string_view words;     ///< `path info`
  std::string_view arguments; ///< as the usage line shows them
  std::string_view summary;
  std::string_view details; ///< of its own `--help`
  std::vector<OptionSpec> options;
  std::size_t least = 0; ///< arguments
  std::size_t most = 0;
  CommandPlace place = CommandPlace::Daemon;
  bool limited = true; ///< an SSH session that is limited to its account may run it
};

inline constexpr std::size_t kAnyNumber = static_cast<std::size_t>(-1);

[[nodiscard]] std::span<const CommandSpec> command_table();
/// The rows of it about keys and settings.
[[nodiscard]] std::vector<CommandSpec> account_commands();
[[nodiscard]] std::span<const OptionSpec> global_options();

/// A command line taken apart.
struct Command {
  const CommandSpec* spec = nullptr; ///< none: general help was asked for
  bool help = false;
  std::string group; ///< `path` of `path --help`; general help is limited to it
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> options;

  [[nodiscard]] bool has(std::string_view option) const;
  /// The last value given, or nothing.
  [[nodiscard]] std::optional<std::string> value(std::string_view option) const;
  [[nodiscard]] std::vector<std::string> values(std::string_view option) const;
  /// A whole number given as a value, else `otherwise`. Error `command.usage`.
  [[nodiscard]] std::uint64_t number(std::string_view option, std::uint64_t otherwise) const;
};

/// Options may stand anywhere before `--`, with their value behind a blank or `=`. Error
/// `command.usage`.
[[nodiscard]] Command parse_command(std::span<const std::string> words);

/// What `--help` shows for it.
[[nodiscard]] std::string help_text(const Command& command);

/// Throws `command.usage`: exit status 2.
[[noreturn]] void throw_usage(std::string message);

/// Exit status of the command-line contract.
[[nodiscard]] int exit_status_of(const Error& error) noexcept;

/// `30`, `90s`, `15m`, `12h`, `30d`, `4w` in seconds. Error `command.usage`.
[[nodiscard]] std::int64_t parse_age(std::string_view text);

} // namespace nixbuild::server
