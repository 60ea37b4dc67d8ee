#pragma once

#include <nixbuild/base/log.hpp>
#include <nixbuild/server/permissions.hpp>

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Who may use the HTTP interface: a file with one line a token,
///
///     SHA-256-HEX ACCOUNT PERMISSION[,PERMISSION…] EXPIRES NAME
///
/// EXPIRES is a time (`2026-01-31T12:00:00Z`) or `-`. Empty lines and lines that begin with `#` say
/// nothing. The token itself stands nowhere: it is printed once, when it is made. `nixbuild token`
/// writes the file, the daemon reads it again whenever it has changed.
namespace nixbuild::server {

inline constexpr std::string_view kTokenPrefix = "nxb_";
/// Instead of an account: sees the numbers of the whole server (GET /metrics) and nothing else.
inline constexpr std::string_view kWholeServer = "*";
inline constexpr std::size_t kTokenFileBytes = 4 * 1024 * 1024;
inline constexpr std::size_t kMostTokens = 10'000;

using TokenDigest = std::array<std::uint8_t, 32>;

struct HttpToken {
  TokenDigest digest{};
  std::string account;
  Permissions permissions;
  std::int64_t expires = 0; ///< seconds since 1970; 0: never
  std::string name;         ///< 1 to 64 characters out of letters, digits, `.`, `_`, `-`

  bool operator==(const HttpToken&) const = default;
};

struct TokenList {
  std::vector<HttpToken> tokens;
  std::vector<std::string> complaints; ///< one for each line that was left out; quotes none of it
};

/// Never throws for what the text says: a line that is not understood gives no rights.
[[nodiscard]] TokenList parse_tokens(std::string_view text);
/// The line of a token, with its line feed.
[[nodiscard]] std::string print_token(const HttpToken& token);
/// Error `http.token-name`.
void expect_token_name(std::string_view name);

/// A missing file has no tokens. Error `http.tokens`: it is no file of its owner alone (mode 0600),
/// is too large, or cannot be read.
[[nodiscard]] TokenList read_tokens(const std::string& file_name);

/// Makes a token and returns it; `token.digest` is ignored. The file is made where it is missing.
/// Errors: `http.token-exists` (the account has one of that name), `http.token-name`,
/// `http.token-limit`, `http.tokens`.
[[nodiscard]] std::string add_token(const std::string& file_name, HttpToken token);
/// False when the account has no token of that name. Error `http.tokens`.
[[nodiscard]] bool
remove_token(const std::string& file_name, std::string_view account, std::string_view name);
/// All tokens of an account, for when it is removed; returns how many. Error `http.tokens`.
std::size_t remove_account_tokens(const std::string& file_name, std::string_view account);

[[nodiscard]] TokenDigest digest_of_token(std::string_view token);

/// The file as the daemon sees it. Thread safe; looks at the file at each question.
class TokenBook {
public:
  /// Reads it once. Error `http.tokens`. `log` outlives the book.
  TokenBook(std::string file_name, Log& log);

  /// The token, unless it is unknown or has expired at `now` (seconds since 1970). Takes as long
  /// for a token that is nearly right as for any other one. A file that cannot be read (any more)
  /// has no tokens; the log says why.
  [[nodiscard]] std::optional<HttpToken> find(const TokenDigest& digest, std::int64_t now);

private:
  struct Stamp {
    bool there = false;
    ino_t inode = 0;
    off_t size = 0;
    std::int64_t changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };

  [[nodiscard]] Stamp look() const;
  void read_again();

  std::string file_name_;
  Log& log_;
  std::mutex mutex_;
  Stamp stamp_;
  bool settled_ = false; ///< the file was not changed just before it was read
  std::vector<HttpToken> tokens_;
};

} // namespace nixbuild::server
