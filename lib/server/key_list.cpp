#include <nixbuild/base/error.hpp>
#include <nixbuild/server/key_list.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace nixbuild::server {

namespace {

constexpr std::string_view kHead = "nixbuild-keys 1";

[[noreturn]] void malformed(std::size_t line) {
  throw Error(
      Reaction::Corrupt,
      "keys.malformed",
      fmt::format("line {} of the list of keys is damaged; starting nixbuildd writes it anew",
                  line));
}

std::string_view take_word(std::string_view& line) {
  const auto word = line.substr(0, line.find(' '));
  line.remove_prefix(std::min(word.size() + 1, line.size()));
  return word;
}

std::int64_t number_of(std::string_view word, std::size_t line) {
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size() || number < 0) {
    malformed(line);
  }
  return number;
}

/// For a shell, which is what sshd gives a forced command to.
std::string shell_word(std::string_view word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("/._-+=:@%,").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (plain) {
    return std::string(word);
  }
  std::string quoted = "'";
  for (const char c : word) {
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return quoted + "'";
}

} // namespace

std::string print_key_list(std::span<const ListedKey> keys) {
  std::string text = std::string(kHead) + "\n";
  for (const auto& key : keys) {
    text += fmt::format("{} {} {} {} {} {}\n",
                        key.id,
                        key.account,
                        key.expires_at,
                        key.algorithm,
                        key.base64,
                        key.name);
  }
  return text;
}

std::vector<ListedKey> parse_key_list(std::string_view text) {
  std::vector<ListedKey> keys;
  for (std::size_t number = 1; !text.empty() || number == 1; ++number) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) {
      malformed(number);
    }
    auto line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (number == 1) {
      if (line != kHead) {
        malformed(number);
      }
      continue;
    }
    ListedKey key;
    key.id = number_of(take_word(line), number);
    key.account = take_word(line);
    key.expires_at = number_of(take_word(line), number);
    key.algorithm = take_word(line);
    key.base64 = take_word(line);
    key.name = line;
    if (key.account.empty() || key.algorithm.empty() || key.base64.empty()) {
      malformed(number);
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

std::optional<ListedKey> key_for_login(std::span<const ListedKey> keys,
                                       std::string_view algorithm,
                                       std::string_view base64,
                                       std::int64_t now) {
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const ListedKey& key) {
    return key.base64 == base64 && key.algorithm == algorithm &&
           (key.expires_at == 0 || key.expires_at > now);
  });
  return found == keys.end() ? std::nullopt : std::optional(*found);
}

std::string authorized_keys_line(const ListedKey& key, std::span<const std::string> serve) {
  std::string command;
  for (const auto& word : serve) {
    command += shell_word(word) + " ";
  }
  command += fmt::format("--account {} --key {}", key.account, key.id);
  std::string quoted;
  for (const char c : command) {
    quoted += c == '"' ? std::string("\\\"") : std::string(1, c);
  }
  return fmt::format("restrict,pty,command=\"{}\" {} {}{}{}\n",
                     quoted,
                     key.algorithm,
                     key.base64,
                     key.name.empty() ? "" : " ",
                     key.name);
}

} // namespace nixbuild::server
