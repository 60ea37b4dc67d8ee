#include "admin_commands.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace nixbuild::server {

namespace {

constexpr std::string_view kWaysToNamePaths =
    "A PATH is a full store path, the part behind the store directory, or the 32 characters of\n"
    "its hash.";

std::vector<CommandSpec> daemon_commands() {
  return {
      {"account add",
       "NAME",
       "make an account",
       "An account has its own store paths and builds; contents that are equal are stored once.\n"
       "Let a key into it: nixbuild --account NAME key add FILE\n"
       "Names: 1 to 63 characters out of a-z, 0-9 and -, not beginning with -.",
       {kJson},
       1,
       1,
       CommandPlace::Daemon,
       false},
      {"account list",
       "",
       "list accounts",
       "Prints each account with the number of its valid store paths. An SSH session sees its own.",
       {kJson},
       0,
       0},
      {"account remove",
       "NAME",
       "remove an account, its keys, tokens and store paths",
       "Contents that no account needs any more are freed by the next `nixbuild gc`.",
       {kJson, {"--force", "", "remove it although it has keys or store paths"}},
       1,
       1,
       CommandPlace::Daemon,
       false},
      {"builds",
       "[ID]",
       "list builds, or show one",
       "Newest first. `nixbuild builds ID` shows all that is known of one build. Where an ID is\n"
       "asked for, a store path will do: the newest build of a derivation, or what made an output.",
       {kJson,
        {"--limit", "N", "at most so many (default 50)"},
        {"--running", "", "only those that run"},
        {"--failed", "", "only those that failed"}},
       0,
       1},
      {"why",
       "ID",
       "say what a build waits for, where it runs, and where its time went",
       "For a build that waits: what holds it up, how many are before it, when it may start. For "
       "one\n"
       "that runs or has ended: its machine, why it has that size, and a waterfall of its time.",
       {kJson},
       1,
       1},
      {"cancel",
       "ID",
       "stop a build, whoever waits for it",
       "Everybody who waits for it is told. What it has made so far is dropped.",
       {},
       1,
       1},
      {"log",
       "ID",
       "print a build's log",
       "Prints the bytes as the builder wrote them.",
       {{"--follow", "", "go on until the build ends"}},
       1,
       1},
      {"attach",
       "ID",
       "follow a build from the first line of its log to its end",
       "Prints the log, then on standard error how the build ended. The exit status is 1 when it\n"
       "failed. Leaving does not touch the build.",
       {},
       1,
       1},
      {"shell",
       "ID",
       "enter the machine of a build that has failed",
       "A shell in the place of the builder: its tree as it was left, its environment, user and\n"
       "limits, in its machine. Machines are kept for a while after a failure, if the client "
       "asked\n"
       "for it (--keep-failed over ssh://) or the setting keep-failed is on. Over SSH: ssh -t "
       "HOST\n"
       "nixbuild shell ID. Without ID, over SSH: a prompt for commands.",
       {},
       1,
       1},
      {"path info",
       "PATH…",
       "show what is known of store paths",
       kWaysToNamePaths,
       {kJson, {"--closure-size", "", "also the NAR bytes of everything it needs"}},
       1,
       kAnyNumber},
      {"path list",
       "[PATH]",
       "list valid store paths, or the files of one",
       "Without PATH: all of the account. With PATH, a store path or a folder in one: its entries.",
       {kJson},
       0,
       1},
      {"path cat",
       "PATH",
       "print a file of a store path",
       "PATH is a file in a store path (/nix/store/…-hello/bin/hello). Symlinks are not followed.",
       {{"--nar", "", "print a whole store path as a NAR"}},
       1,
       1},
      {"path verify",
       "[PATH…]",
       "regenerate NARs and compare their hashes",
       "Without PATH: every path of the account. Prints what is wrong; the exit status is 1 then.",
       {kJson},
       0,
       kAnyNumber},
      {"gc",
       "",
       "remove store paths that nobody uses",
       "Kept are: what sessions and builds are using, the paths named by --keep, the ones younger\n"
       "than --older-than, and all that these need.",
       {kJson,
        {"--keep", "PATH", "a path to keep (may be given often)"},
        {"--older-than", "AGE", "keep paths younger than this (30d, 12h, 15m)"}},
       0,
       0,
       CommandPlace::Daemon,
       false},
  };
}

/// What concerns the whole service.
std::vector<CommandSpec> service_commands() {
  return {
      {"usage",
       "",
       "say what builds have taken, by day, key or tag, and what is stored",
       "Counts builds that have had a machine and whose end was not the service's fault, on the "
       "day\n"
       "(UTC) of their end. MEMORY is GiB of the machine times hours. Times: 2026-01-31,\n"
       "2026-01-31T12:00:00Z.",
       {kJson,
        {"--from", "TIME", "builds that ended then or later"},
        {"--to", "TIME", "builds that ended before"},
        {"--by", "WHAT", "day (default), key (number of the SSH key) or tag"},
        {"--all", "", "of every account"}},
       0,
       0},
      {"health",
       "",
       "show whether the daemon does its own work",
       "What it does all the time beside serving: taking sessions, syncing, looking at the "
       "machine,\n"
       "forgetting what is old. The exit status is 1 when something of it fails or is late.",
       {kJson},
       0,
       0,
       CommandPlace::Daemon,
       false},
      {"drain",
       "",
       "start no more builds",
       "Builds that run go on to their end; new ones wait. Queries and uploads are served. With\n"
       "--refuse new sessions end before they begin, so that clients with other machines in\n"
       "their list build there; those that are open go on. Until `nixbuild undrain` or the\n"
       "daemon's end.",
       {{"--refuse", "", "send new sessions away"},
        {"--wait", "", "return when nothing runs any more"}},
       0,
       0,
       CommandPlace::Daemon,
       false},
      {"undrain",
       "",
       "start builds again",
       "Those that waited start at once.",
       {},
       0,
       0,
       CommandPlace::Daemon,
       false},
  };
}

std::vector<CommandSpec> local_commands() {
  constexpr auto here = CommandPlace::Here;
  return {
      {"run",
       "DRV",
       "build one derivation file",
       "DRV is a .drv file. Its inputs must be in the account's store; the message names the "
       "first\n"
       "one that is missing and how to bring it there. The outputs of input derivations are "
       "looked\n"
       "up in the .drv files beside DRV.",
       {kJson,
        {"--timeout", "SECONDS", "stop the build after this time"},
        {"--max-silent-time", "SECONDS", "stop it when its log is silent for so long"}},
       1,
       1,
       here,
       false},
      {"nar ls",
       "NAR",
       "list an archive",
       "NAR is a file, or - for standard input. One line an entry: mode, size, path.",
       {kJson},
       1,
       1,
       here,
       false},
      {"nar cat",
       "NAR PATH",
       "print one file of an archive",
       "PATH is relative to the archive's root (bin/hello).",
       {},
       2,
       2,
       here,
       false},
      {"nar pack",
       "PATH",
       "write a file or folder as an archive",
       "Goes to standard output, unless that is a terminal.",
       {{"--output", "FILE", "write here instead"}},
       1,
       1,
       here,
       false},
      {"nar unpack",
       "NAR DEST",
       "make the files of an archive",
       "DEST must not exist. When something goes wrong nothing is left of it.",
       {},
       2,
       2,
       here,
       false},
      {"kernel import",
       "VMLINUZ [MODULES]",
       "take a kernel over for building",
       "VMLINUZ is a distribution's kernel image (/boot/vmlinuz-VERSION), MODULES its folder\n"
       "(/lib/modules/VERSION). Without MODULES all that is needed must be built in. A machine is\n"
       "tried with it; a kernel with which none comes as far as a builder is refused.",
       {kJson},
       1,
       2,
       here,
       false},
      {"kernel list",
       "",
       "list the kernels taken over",
       "The daemon takes the one its configuration names, else the one imported last, else the\n"
       "newest of this machine.",
       {kJson},
       0,
       0,
       here,
       false},
      {"token add",
       "NAME",
       "make a token for the HTTP interface",
       "Prints the token, once: it is not kept. Whoever has it sees the account's builds "
       "(nixbuildd\n"
       "needs [http] listen). Permissions: build:read, build:write, account:write, store:read,\n"
       "store:write.",
       {kJson,
        {"--allow", "PERMISSIONS", "what it may do, with commas between (default build:read)"},
        {"--expires", "AGE", "when it ends: 30d, 12h, … (default: never)"},
        {"--metrics", "", "it sees /metrics of the whole server, and no account"}},
       1,
       1,
       here,
       false},
      {"token list",
       "",
       "list the tokens of the HTTP interface",
       "All of them, or those of the account that --account names.",
       {kJson},
       0,
       0,
       here,
       false},
      {"token remove",
       "NAME",
       "take a token of the HTTP interface away",
       "It ends with the next request; logs that it follows end at once.",
       {{"--metrics", "", "it was made with --metrics"}},
       1,
       1,
       here,
       false},
      {"doctor",
       "",
       "check that builds can run here",
       "Each line is ok, warning or problem, with what to do. The exit status is 1 when there is "
       "a\n"
       "problem.",
       {kJson},
       0,
       0,
       here,
       false},
  };
}

const OptionSpec* find_option(std::span<const OptionSpec> options, std::string_view name) {
  const auto found = std::find_if(options.begin(), options.end(), [&](const OptionSpec& option) {
    return option.name == name;
  });
  return found == options.end() ? nullptr : &*found;
}

/// The command whose words begin `words`, or nothing.
const CommandSpec* find_command(std::span<const std::string> words) {
  std::string name;
  for (std::size_t count = 1; count <= std::min<std::size_t>(2, words.size()); ++count) {
    name += (name.empty() ? "" : " ") + words[count - 1];
    for (const auto& spec : command_table()) {
      if (spec.words == name) {
        return &spec;
      }
    }
  }
  return nullptr;
}

bool is_group(std::string_view word) {
  return std::any_of(command_table().begin(), command_table().end(), [&](const auto& spec) {
    return spec.words.starts_with(word) && spec.words.size() > word.size() &&
           spec.words[word.size()] == ' ';
  });
}

std::string commands_of_group(std::string_view group) {
  std::string list;
  for (const auto& spec : command_table()) {
    if (spec.words.starts_with(group) && spec.words.size() > group.size() &&
        spec.words[group.size()] == ' ') {
      list += (list.empty() ? "" : ", ") + std::string(spec.words.substr(group.size() + 1));
    }
  }
  return list;
}

std::string option_lines(std::span<const OptionSpec> options) {
  std::string text;
  for (const auto& option : options) {
    const auto left =
        std::string(option.name) + (option.value.empty() ? "" : " " + std::string(option.value));
    text += fmt::format("  {:<26}{}\n", left, option.help);
  }
  return text;
}

void find_spec(Command& command) {
  auto& words = command.arguments;
  if (!words.empty() && words.front() == "help") {
    words.erase(words.begin());
    command.help = true;
  }
  if (words.empty()) {
    if (!command.help) {
      throw_usage("a command is missing; nixbuild --help lists them");
    }
    return;
  }
  command.spec = find_command(words);
  if (command.spec != nullptr) {
    const auto count = std::count(command.spec->words.begin(), command.spec->words.end(), ' ') + 1;
    words.erase(words.begin(), words.begin() + count);
  } else if (is_group(words.front())) {
    command.group = words.front();
    if (!command.help) {
      throw_usage(
          fmt::format("'{}' needs one of: {}", words.front(), commands_of_group(words.front())));
    }
  } else {
    throw_usage(fmt::format("there is no command '{}'; nixbuild --help lists them", words.front()));
  }
}

void check(const Command& command) {
  for (const auto& [name, value] : command.options) {
    const auto* option = find_option(command.spec->options, name);
    if (option == nullptr && find_option(global_options(), name) == nullptr) {
      throw_usage(fmt::format("{} has no option {}", command.spec->words, name));
    }
  }
  const auto count = command.arguments.size();
  if (count < command.spec->least) {
    throw_usage(fmt::format("usage: nixbuild {} {}", command.spec->words, command.spec->arguments));
  }
  if (count > command.spec->most) {
    throw_usage(fmt::format("'{}' is one argument too many; usage: nixbuild {} {}",
                            command.arguments[command.spec->most],
                            command.spec->words,
                            command.spec->arguments));
  }
}

/// The option of that name, whatever the command: which one it is comes out only later.
const OptionSpec* any_option(std::string_view name) {
  if (const auto* option = find_option(global_options(), name)) {
    return option;
  }
  for (const auto& spec : command_table()) {
    if (const auto* option = find_option(spec.options, name)) {
      return option;
    }
  }
  return nullptr;
}

} // namespace

std::span<const CommandSpec> command_table() {
  static const std::vector<CommandSpec> table = [] {
    auto all = daemon_commands();
    for (auto& more : {service_commands(), account_commands(), local_commands()}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }();
  return table;
}

std::span<const OptionSpec> global_options() {
  static const std::vector<OptionSpec> options = {
      {"--state-dir",
       "DIR",
       "the daemon's folder (else $NIXBUILD_STATE_DIR, /var/lib/nixbuild, …)"},
      {"--config", "FILE", "configuration for a daemon that is started, and for doctor"},
      {"--account", "NAME", "the account that is meant (default: default)"},
      {"--no-autostart", "", "do not start a daemon where none runs"},
  };
  return options;
}

bool Command::has(std::string_view option) const {
  return value(option).has_value();
}

std::optional<std::string> Command::value(std::string_view option) const {
  const auto all = values(option);
  return all.empty() ? std::nullopt : std::optional(all.back());
}

std::vector<std::string> Command::values(std::string_view option) const {
  std::vector<std::string> found;
  for (const auto& [name, value] : options) {
    if (name == option) {
      found.push_back(value);
    }
  }
  return found;
}

std::uint64_t Command::number(std::string_view option, std::uint64_t otherwise) const {
  const auto text = value(option);
  if (!text) {
    return otherwise;
  }
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size()) {
    throw_usage(fmt::format("{} needs a whole number, not '{}'", option, *text));
  }
  return number;
}

Command parse_command(std::span<const std::string> words) {
  Command command;
  bool only_arguments = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto& word = words[i];
    if (only_arguments || word.size() < 2 || word.front() != '-') {
      command.arguments.push_back(word);
    } else if (word == "--") {
      only_arguments = true;
    } else if (word == "--help" || word == "-h") {
      command.help = true;
    } else {
      const auto equals = word.find('=');
      const auto name = word.substr(0, equals);
      const auto* option = any_option(name);
      if (option == nullptr) {
        throw_usage(fmt::format("there is no option {}", name));
      }
      std::string value;
      if (equals != std::string::npos) {
        value = word.substr(equals + 1);
        if (option->value.empty()) {
          throw_usage(fmt::format("{} takes no value", name));
        }
      } else if (!option->value.empty()) {
        if (i + 1 >= words.size()) {
          throw_usage(fmt::format("{} needs a value: {}", name, option->value));
        }
        value = words[++i];
      }
      command.options.emplace_back(name, value);
    }
  }
  find_spec(command);
  if (command.spec != nullptr && !command.help) {
    check(command);
  }
  return command;
}

std::string help_text(const Command& command) {
  if (command.spec != nullptr) {
    const auto& spec = *command.spec;
    auto text = fmt::format("Usage: nixbuild {}{}{}\n\nTo {}.\n\n{}\n",
                            spec.words,
                            spec.arguments.empty() ? "" : " ",
                            spec.arguments,
                            spec.summary,
                            spec.details);
    if (!spec.options.empty()) {
      text += "\nOptions\n" + option_lines(spec.options);
    }
    return text + "\nOptions of every command\n" + option_lines(global_options());
  }
  std::string text = "Usage: nixbuild [--state-dir DIR] [--account NAME] COMMAND …\n\nCommands\n";
  for (const auto& spec : command_table()) {
    if (command.group.empty() || spec.words.starts_with(command.group + " ")) {
      const auto left = fmt::format("{} {}", spec.words, spec.arguments);
      text += fmt::format("  {:<32}{}\n", left, spec.summary);
    }
  }
  text += "\nOptions of every command\n" + option_lines(global_options());
  return text + "\nnixbuild COMMAND --help tells more. Exit status: 0 done, 1 failed as asked,\n"
                "2 usage, 3 refused, 4 not found, 5 busy or timed out, 70 internal.\n";
}

void throw_usage(std::string message) {
  throw Error(Reaction::Reject, "command.usage", std::move(message));
}

int exit_status_of(const Error& error) noexcept {
  constexpr int usage = 2;
  return error.code() == "command.usage" ? usage : exit_code_of(error.reaction());
}

std::int64_t parse_age(std::string_view text) {
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::int64_t most = 1'000'000;
  std::int64_t seconds = 0;
  for (const auto& [name, length] : {std::pair<std::string_view, std::int64_t>{"", 1},
                                     {"s", 1},
                                     {"m", 60},
                                     {"h", 3600},
                                     {"d", 86400},
                                     {"w", 604800}}) {
    if (unit == name) {
      seconds = length;
    }
  }
  if (error != std::errc() || seconds == 0 || count < 0 || count > most) {
    throw_usage(fmt::format("'{}' is no age: write 30d, 12h, 15m or 90s", text));
  }
  return count * seconds;
}

} // namespace nixbuild::server
