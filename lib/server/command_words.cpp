#include <nixbuild/base/error.hpp>
#include <nixbuild/server/command_words.hpp>

#include <utility>

namespace nixbuild::server {

std::vector<std::string> split_words(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool open = false;
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else if (c == '\\' && quote == '"' && i + 1 < line.size()) {
        word.push_back(line[++i]);
      } else {
        word.push_back(c);
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      open = true;
    } else if (c == '\\' && i + 1 < line.size()) {
      word.push_back(line[++i]);
      open = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (open || !word.empty()) {
        words.push_back(std::exchange(word, {}));
      }
      open = false;
    } else {
      word.push_back(c);
    }
  }
  if (open || !word.empty()) {
    words.push_back(word);
  }
  return words;
}

namespace {

constexpr std::size_t kShownCommand = 200;

std::string_view program_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

/// As it may stand in a line of somebody's terminal.
std::string shown_command(const std::vector<std::string>& words) {
  std::string all;
  for (const auto& word : words) {
    all += (all.empty() ? "" : " ") + word;
  }
  if (all.size() > kShownCommand) {
    all.resize(kShownCommand);
    all += "…";
  }
  for (char& c : all) {
    const auto byte = static_cast<unsigned char>(c);
    c = byte < 0x20 || byte == 0x7f ? '?' : c;
  }
  return all;
}

[[noreturn]] void refuse_command(const std::string& why) {
  throw Error(Reaction::Reject, "front.command", why);
}

/// What client programs add that changes nothing here, with a value behind it.
bool is_harmless(std::string_view word) {
  return word == "--builders" || word == "--experimental-features" ||
         word == "--extra-experimental-features";
}

} // namespace

Handoff read_client_words(const std::vector<std::string>& words, bool over_ssh) {
  Handoff handoff;
  handoff.limited = over_ssh;
  if (words.empty()) {
    refuse_command("this is a Nix builder and store: use it as ssh://HOST or ssh-ng://HOST; "
                   "`ssh HOST nixbuild help` says what else there is");
  }
  const auto program = program_name(words.front());
  if (over_ssh && (program == "shell" || program == "api" || program == "nixbuild")) {
    handoff.kind = HandoffKind::Admin;
    handoff.arguments.assign(words.begin() + (program == "nixbuild" ? 1 : 0), words.end());
    return handoff;
  }
  bool serve = false;
  bool worker = false;
  std::string unknown;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto& word = words[i];
    if (!serve && !worker && !word.starts_with('-')) {
      continue; // the command may be several words, called what its owner likes
    }
    if (word == "--serve" && !worker) {
      serve = true;
    } else if (word == "--stdio" && !serve) {
      worker = true;
    } else if (word == "--write" && serve) {
      handoff.write = true;
    } else if (is_harmless(word) && i + 1 < words.size()) {
      ++i;
    } else if (unknown.empty()) {
      unknown = word;
    }
  }
  if (!serve && !worker) {
    refuse_command("'" + shown_command(words) +
                   "' cannot be run here: this is a Nix builder and store, for ssh://HOST and "
                   "ssh-ng://HOST; `ssh HOST nixbuild help` says what else there is");
  }
  if (unknown == "--store" || unknown.starts_with("--store=")) {
    refuse_command("'" + shown_command(words) +
                   "': another store cannot be chosen here (remote-store); each account has one");
  }
  if (!unknown.empty()) {
    refuse_command("'" + shown_command(words) + "': '" + shown_command({unknown}) +
                   "' is not understood");
  }
  handoff.kind = serve ? HandoffKind::Serve : HandoffKind::Worker;
  handoff.write = handoff.write || worker;
  return handoff;
}

} // namespace nixbuild::server
