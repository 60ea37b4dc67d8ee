// What sshd asks about keys, and the file of `key add`.

#include "here.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/key_list.hpp>
#include <nixbuild/server/ssh_key.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>

namespace nixbuild::tool {

namespace {

/// Of the list of keys: a hundred thousand keys have 30 MiB.
constexpr std::size_t kMostListBytes = 256U << 20;

std::string read_all(const UniqueFd& file, const std::string& name, std::size_t most) {
  std::string text;
  std::array<char, 64 * 1024> buffer{};
  for (;;) {
    const auto count = system_call("key.file", "reading " + name, [&] {
      return ::read(file.get(), buffer.data(), buffer.size());
    });
    if (count == 0) {
      return text;
    }
    text.append(buffer.data(), static_cast<std::size_t>(count));
    if (text.size() > most) {
      throw Error(
          Reaction::Reject, "key.file", name + " has more than " + std::to_string(most) + " bytes");
    }
  }
}

UniqueFd open_file(const std::string& name) {
  UniqueFd file(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    throw_system_error("key.file", "opening " + name);
  }
  return file;
}

std::vector<server::ListedKey> listed_keys(const Globals& globals, const server::Command& command) {
  const auto name = command.value("--keys-file").value_or(globals.state_dir + "/keys");
  return server::parse_key_list(read_all(open_file(name), name, kMostListBytes));
}

/// The words of nixbuild-serve that reach the same daemon as this program would.
std::vector<std::string> serve_words(const Globals& globals, const server::Command& command) {
  std::vector<std::string> words = {server::find_program("nixbuild-serve")};
  if (globals.state_dir_given) {
    words.insert(
        words.end(),
        {"--state-dir", server::find_state_dir(command.value("--state-dir").value_or(""))});
  }
  if (!globals.config.empty()) {
    words.insert(words.end(), {"--config", globals.config});
  }
  return words;
}

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

} // namespace

int keys_for(const Globals& globals, const server::Command& command) {
  const auto keys = listed_keys(globals, command);
  const auto key =
      server::key_for_login(keys, command.arguments.at(1), command.arguments.at(2), now());
  if (key) {
    print(server::authorized_keys_line(*key, serve_words(globals, command)));
  }
  return 0;
}

int authorized_keys(const Globals& globals, const server::Command& command) {
  const auto words = serve_words(globals, command);
  const auto account = command.value("--account");
  for (const auto& key : listed_keys(globals, command)) {
    if ((!account || *account == key.account) && (key.expires_at == 0 || key.expires_at > now())) {
      print(server::authorized_keys_line(key, words));
    }
  }
  return 0;
}

void read_key_file(server::Command& command) {
  auto& words = command.arguments;
  // More words, or one with blanks, are the key itself.
  if (words.size() != 1 || words.front().find(' ') != std::string::npos) {
    return;
  }
  const auto name = words.front();
  const UniqueFd file = name == "-" ? UniqueFd(::dup(STDIN_FILENO)) : open_file(name);
  const auto text = read_all(file, name == "-" ? "standard input" : name, server::kPublicKeyBytes);
  // Here already, because the daemon would take one word for the name of a file.
  static_cast<void>(server::parse_public_key(text));
  words = {text};
}

} // namespace nixbuild::tool
