#include "http_tokens.hpp"

#include "admin_text.hpp"
#include "api_time.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

namespace nixbuild::server {

namespace {

constexpr std::size_t kLineBytes = 512;
constexpr std::size_t kMostComplaints = 20;
constexpr std::size_t kNameBytes = 64;
constexpr std::size_t kAccountBytes = 63;
constexpr std::size_t kSecretBytes = 32;

bool is_small_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool is_account(std::string_view text) {
  return text == kWholeServer ||
         (!text.empty() && text.size() <= kAccountBytes && text.front() != '-' &&
          std::all_of(
              text.begin(), text.end(), [](char c) { return is_small_or_digit(c) || c == '-'; }));
}

bool is_token_name(std::string_view text) {
  return !text.empty() && text.size() <= kNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return is_small_or_digit(c) || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' ||
                  c == '-';
         });
}

/// The words of a line, which blanks separate; at most one more than there may be.
std::vector<std::string_view> words_of(std::string_view line) {
  constexpr std::size_t most = 6;
  std::vector<std::string_view> words;
  while (words.size() < most) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (line.empty()) {
      break;
    }
    words.push_back(line.substr(0, line.find_first_of(" \t")));
    line.remove_prefix(words.back().size());
  }
  return words;
}

/// The token of a line, or what is wrong with it.
std::pair<std::optional<HttpToken>, std::string_view> parse_line(std::string_view line) {
  const auto words = words_of(line);
  if (line.size() > kLineBytes || words.size() != 5) {
    return {std::nullopt, "needs five words: digest, account, permissions, expiry, name"};
  }
  HttpToken token;
  try {
    const auto digest = hex_decode(words[0]);
    if (digest.size() != token.digest.size()) {
      return {std::nullopt, "the digest must have 64 hexadecimal digits"};
    }
    std::copy(digest.begin(), digest.end(), token.digest.begin());
    token.permissions = Permissions::parse(words[2]);
  } catch (const Error& error) {
    return {std::nullopt,
            error.code() == "encoding.hex" ? "the digest must have 64 hexadecimal digits"
                                           : "unknown permission"};
  }
  if (!is_account(words[1])) {
    return {std::nullopt, "the second word must be an account's name"};
  }
  if (words[3] != "-") {
    const auto expires = parse_time_us(words[3]);
    if (!expires || *expires < 1'000'000) {
      return {std::nullopt, "the fourth word must be a time or -"};
    }
    token.expires = *expires / 1'000'000;
  }
  if (!is_token_name(words[4])) {
    return {std::nullopt, "the fifth word must be a token's name"};
  }
  token.account = words[1];
  token.name = words[4];
  return {std::move(token), {}};
}

bool same(const TokenDigest& a, const TokenDigest& b) {
  unsigned different = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    different |= static_cast<unsigned>(a[i] ^ b[i]);
  }
  return different == 0;
}

std::string read_all(const UniqueFd& file, const std::string& file_name) {
  std::string text;
  char piece[65536];
  for (;;) {
    const auto count = system_call("http.tokens", "reading " + file_name, [&] {
      return ::read(file.get(), piece, sizeof piece);
    });
    if (count == 0) {
      return text;
    }
    text.append(piece, static_cast<std::size_t>(count));
    if (text.size() > kTokenFileBytes) {
      throw Error(Reaction::Reject,
                  "http.tokens",
                  fmt::format("{} is larger than {} bytes", file_name, kTokenFileBytes));
    }
  }
}

void expect_private(const UniqueFd& file, const std::string& file_name) {
  struct stat status {};

  system_call(
      "http.tokens", "looking at " + file_name, [&] { return ::fstat(file.get(), &status); });
  if (!S_ISREG(status.st_mode) || (status.st_mode & 077U) != 0 ||
      (status.st_uid != ::geteuid() && status.st_uid != 0)) {
    throw Error(Reaction::Denied,
                "http.tokens",
                fmt::format("{} must be a file that only its owner may read and write (chmod 600)",
                            file_name));
  }
}

void write_all(const UniqueFd& file, std::string_view text, const std::string& file_name) {
  while (!text.empty()) {
    const auto count = system_call("http.tokens", "writing " + file_name, [&] {
      return ::write(file.get(), text.data(), text.size());
    });
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

/// Two programs may change the file at the same time: one waits for the other.
UniqueFd lock_tokens(const std::string& file_name) {
  const auto lock_name = file_name + ".lock";
  UniqueFd lock(system_call("http.tokens", "opening " + lock_name, [&] {
    return ::open(lock_name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  }));
  system_call("http.tokens", "locking " + lock_name, [&] { return ::flock(lock.get(), LOCK_EX); });
  return lock;
}

/// Puts a new file in the place of the old one, so that a reader sees one or the other.
void replace_file(const std::string& file_name, std::string_view text) {
  const auto fresh_name = file_name + ".new";
  const UniqueFd fresh(system_call("http.tokens", "making " + fresh_name, [&] {
    return ::open(fresh_name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  }));
  system_call("http.tokens", "making " + fresh_name, [&] { return ::fchmod(fresh.get(), 0600); });
  write_all(fresh, text, fresh_name);
  system_call("http.tokens", "writing " + fresh_name, [&] { return ::fsync(fresh.get()); });
  system_call("http.tokens", "writing " + file_name, [&] {
    return ::rename(fresh_name.c_str(), file_name.c_str());
  });
}

std::string read_text(const std::string& file_name) {
  const UniqueFd file(::open(file_name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    if (errno == ENOENT) {
      return {};
    }
    throw_system_error("http.tokens", "opening " + file_name);
  }
  expect_private(file, file_name);
  return read_all(file, file_name);
}

/// Calls `visit` for each line with its number.
template <class Visit>
void for_each_line(std::string_view text, Visit visit) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    visit(line, number);
  }
}

/// Takes out the tokens that `unwanted` names; lines that are no tokens stay as they are.
template <class Unwanted>
std::size_t remove_lines(const std::string& file_name, Unwanted unwanted) {
  const auto lock = lock_tokens(file_name);
  std::string kept;
  std::size_t removed = 0;
  for_each_line(read_text(file_name), [&](std::string_view line, std::size_t) {
    const auto token = parse_line(line).first;
    if (token && unwanted(*token)) {
      ++removed;
    } else {
      kept.append(line).push_back('\n');
    }
  });
  if (removed > 0) {
    replace_file(file_name, kept);
  }
  return removed;
}

} // namespace

TokenList parse_tokens(std::string_view text) {
  TokenList list;
  const auto complain = [&](std::size_t number, std::string_view what) {
    if (list.complaints.size() < kMostComplaints) {
      list.complaints.push_back(fmt::format("line {}: {}", number, what));
    }
  };
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    if (line.find_first_not_of(" \t") == std::string_view::npos || line.front() == '#') {
      return;
    }
    if (list.tokens.size() >= kMostTokens) {
      complain(number, "too many tokens");
      return;
    }
    auto [token, problem] = parse_line(line);
    if (token) {
      list.tokens.push_back(std::move(*token));
    } else {
      complain(number, problem);
    }
  });
  return list;
}

std::string print_token(const HttpToken& token) {
  auto permissions = token.permissions.text();
  std::replace(permissions.begin(), permissions.end(), ' ', ',');
  return fmt::format("{} {} {} {} {}\n",
                     hex_encode(token.digest),
                     token.account,
                     permissions.empty() ? "none" : permissions,
                     token.expires == 0 ? "-" : iso_time(token.expires),
                     token.name);
}

void expect_token_name(std::string_view name) {
  if (!is_token_name(name)) {
    throw Error(Reaction::Reject,
                "http.token-name",
                fmt::format("'{}' is no name for a token: 1 to {} letters, digits, '.', '_', '-'",
                            printable(name.substr(0, kNameBytes)),
                            kNameBytes));
  }
}

TokenList read_tokens(const std::string& file_name) {
  return parse_tokens(read_text(file_name));
}

std::string add_token(const std::string& file_name, HttpToken token) {
  expect_token_name(token.name);
  if (!is_account(token.account)) {
    throw Error(Reaction::Reject,
                "http.token-name",
                fmt::format("'{}' is no account's name", printable(token.account)));
  }
  const auto lock = lock_tokens(file_name);
  auto text = read_text(file_name);
  const auto list = parse_tokens(text);
  for (const auto& other : list.tokens) {
    if (other.account == token.account && other.name == token.name) {
      throw Error(Reaction::Reject,
                  "http.token-exists",
                  fmt::format("there is a token '{}' of account '{}' already; nixbuild token "
                              "remove takes it away",
                              token.name,
                              token.account));
    }
  }
  if (list.tokens.size() >= kMostTokens || text.size() + kLineBytes > kTokenFileBytes) {
    throw Error(Reaction::Busy,
                "http.token-limit",
                fmt::format("there are {} tokens: no more are taken", list.tokens.size()));
  }
  std::array<std::uint8_t, kSecretBytes> random{};
  const auto got = system_call("http.tokens", "asking for random bytes", [&] {
    return ::getrandom(random.data(), random.size(), 0);
  });
  if (static_cast<std::size_t>(got) != random.size()) {
    throw Error(Reaction::Internal, "http.tokens", "the system gave too few random bytes");
  }
  auto secret = std::string(kTokenPrefix) + hex_encode(random);
  token.digest = digest_of_token(secret);
  if (!text.empty() && text.back() != '\n') {
    text.push_back('\n');
  }
  replace_file(file_name, text + print_token(token));
  return secret;
}

bool remove_token(const std::string& file_name, std::string_view account, std::string_view name) {
  return remove_lines(file_name, [&](const HttpToken& token) {
           return token.account == account && token.name == name;
         }) > 0;
}

std::size_t remove_account_tokens(const std::string& file_name, std::string_view account) {
  return remove_lines(file_name, [&](const HttpToken& token) { return token.account == account; });
}

TokenDigest digest_of_token(std::string_view token) {
  TokenDigest digest{};
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of(token));
  std::copy(hash.bytes().begin(), hash.bytes().end(), digest.begin());
  return digest;
}

TokenBook::TokenBook(std::string file_name, Log& log)
    : file_name_(std::move(file_name)), log_(log), stamp_(look()) {
  auto list = read_tokens(file_name_);
  for (const auto& complaint : list.complaints) {
    log_.warning(fmt::format("{}, {}", file_name_, complaint));
  }
  tokens_ = std::move(list.tokens);
}

TokenBook::Stamp TokenBook::look() const {
  struct stat status {};

  Stamp stamp;
  if (::stat(file_name_.c_str(), &status) == 0) {
    stamp.there = true;
    stamp.inode = status.st_ino;
    stamp.size = status.st_size;
    // The time of change, which nobody can set, and which a change of mode moves as well.
    stamp.changed_ns = std::int64_t{status.st_ctim.tv_sec} * 1'000'000'000 + status.st_ctim.tv_nsec;
  }
  return stamp;
}

void TokenBook::read_again() {
  const auto stamp = look();
  if (stamp == stamp_ && settled_) {
    return;
  }
  const auto now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  const bool changed = stamp != stamp_;
  constexpr std::int64_t coarse_ns = 2'000'000'000;
  // Two changes within one tick of the file system's clock have the same time.
  settled_ = !stamp.there || stamp.changed_ns + coarse_ns < now_ns;
  stamp_ = stamp;
  try {
    auto list = read_tokens(file_name_);
    if (changed) {
      for (const auto& complaint : list.complaints) {
        log_.warning(fmt::format("{}, {}", file_name_, complaint));
      }
    }
    tokens_ = std::move(list.tokens);
  } catch (const Error& error) {
    tokens_.clear();
    if (changed) {
      log_.error(fmt::format("no token is accepted: {}", error.what()));
    }
  }
}

std::optional<HttpToken> TokenBook::find(const TokenDigest& digest, std::int64_t now) {
  const std::lock_guard lock(mutex_);
  read_again();
  const HttpToken* found = nullptr;
  for (const auto& token : tokens_) {
    if (same(token.digest, digest)) {
      found = &token;
    }
  }
  if (found == nullptr || (found->expires != 0 && found->expires <= now)) {
    return std::nullopt;
  }
  return *found;
}

} // namespace nixbuild::server
