// nixbuild: administration for people and scripts. Most commands are handed to the daemon together
// with this program's descriptors; the others run here.

#include "here.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/private_files.hpp>
#include <nixbuild/server/handoff.hpp>

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <span>

namespace {

using namespace nixbuild;
using server::Command;
using tool::Globals;

/// The words without the options that are this program's own.
std::vector<std::string> words_for_daemon(const Command& command) {
  std::vector<std::string> words;
  std::string_view rest = command.spec->words;
  while (!rest.empty()) {
    const auto blank = rest.find(' ');
    words.emplace_back(rest.substr(0, blank));
    rest = blank == std::string_view::npos ? std::string_view() : rest.substr(blank + 1);
  }
  for (const auto& [name, value] : command.options) {
    for (const auto& option : command.spec->options) {
      if (option.name == name) {
        words.push_back(option.value.empty() ? name : name + "=" + value);
      }
    }
  }
  words.emplace_back("--");
  words.insert(words.end(), command.arguments.begin(), command.arguments.end());
  return words;
}

/// Commands do not read their input any more (read_key_file has). The daemon gets one end of a pair
/// of sockets instead: it sees by it that this program has ended (Ctrl-C) and stops following a log
/// to the terminal. Returns the other end.
UniqueFd replace_input() {
  int ends[2] = {-1, -1};
  system_call("command.input", "making a pair of sockets", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  });
  UniqueFd alive(ends[0]);
  const UniqueFd given(ends[1]);
  system_call(
      "command.input", "replacing the input", [&] { return ::dup2(given.get(), STDIN_FILENO); });
  return alive;
}

int through_daemon(const Globals& globals, const Command& command) {
  ::signal(SIGPIPE, SIG_IGN);
  UniqueFd alive;
  if (command.spec->words != "shell") {
    alive = replace_input();
  }
  server::Handoff handoff;
  handoff.kind = server::HandoffKind::Admin;
  handoff.account = globals.account;
  handoff.arguments = words_for_daemon(command);
  return server::run_through_daemon(globals.state_dir, globals.config, globals.autostart, handoff);
}

int run_here(const Globals& globals, const Command& command) {
  const auto words = command.spec->words;
  if (words.starts_with("nar ")) {
    // What these write is the caller's, in the caller's own way.
    ::umask(globals.umask);
  }
  if (words == "nar ls") {
    return tool::nar_ls(command);
  }
  if (words == "nar cat") {
    return tool::nar_cat(command);
  }
  if (words == "nar pack") {
    return tool::nar_pack(command);
  }
  if (words == "nar unpack") {
    return tool::nar_unpack(command);
  }
  if (words == "kernel import") {
    return tool::kernel_import(globals, command);
  }
  if (words == "kernel list") {
    return tool::kernel_list(globals, command);
  }
  if (words == "keys-for") {
    return tool::keys_for(globals, command);
  }
  if (words == "authorized-keys") {
    return tool::authorized_keys(globals, command);
  }
  if (words == "doctor") {
    return tool::doctor(globals, command);
  }
  if (words == "token add") {
    return tool::token_add(globals, command);
  }
  if (words == "token list") {
    return tool::token_list(globals, command);
  }
  if (words == "token remove") {
    return tool::token_remove(globals, command);
  }
  return tool::run_derivation(globals, command);
}

int run(std::span<const std::string> words, mode_t umask) {
  auto command = server::parse_command(words);
  if (command.help) {
    tool::print(server::help_text(command));
    return 0;
  }
  Globals globals;
  globals.umask = umask;
  globals.account = command.value("--account").value_or("default");
  globals.config = command.value("--config").value_or("");
  globals.autostart = !command.has("--no-autostart");
  // An sshd's lookup that is given a list of keys may not even have a home.
  const bool needs_state = !command.spec->words.starts_with("nar ") && !command.has("--keys-file");
  globals.state_dir_given =
      command.has("--state-dir") || std::getenv("NIXBUILD_STATE_DIR") != nullptr;
  if (command.spec->words == "key add") {
    tool::read_key_file(command);
  }
  if (needs_state) {
    globals.state_dir = server::find_state_dir(command.value("--state-dir").value_or(""));
  }
  return command.spec->place == server::CommandPlace::Daemon ? through_daemon(globals, command)
                                                             : run_here(globals, command);
}

} // namespace

int main(int argc, char** argv) {
  const auto umask = make_files_private();
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    return run(words, umask);
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return server::exit_status_of(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 70;
  }
}
