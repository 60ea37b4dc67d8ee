#pragma once

#include <nixbuild/base/api.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The list of keys that `nixbuild keys-for` answers sshd from: a text file that the daemon writes,
/// so that a login needs neither the daemon nor its database. Head line `nixbuild-keys 1`, then one
/// line a key: number, account, expiry (seconds since 1970, 0: never), kind, base 64, name.
namespace nixbuild::server {

struct ListedKey {
  std::int64_t id = 0;
  std::string account;
  std::int64_t expires_at = 0;
  std::string algorithm;
  std::string base64;
  std::string name; ///< may hold blanks; empty where it is not known

  bool operator==(const ListedKey&) const = default;
};

[[nodiscard]] NIXBUILD_API std::string print_key_list(std::span<const ListedKey> keys);
/// Error `keys.malformed` with the line.
[[nodiscard]] NIXBUILD_API std::vector<ListedKey> parse_key_list(std::string_view text);

/// The key with this kind and base 64 that has not expired at `now`, or nothing.
[[nodiscard]] NIXBUILD_API std::optional<ListedKey> key_for_login(std::span<const ListedKey> keys,
                                                                  std::string_view algorithm,
                                                                  std::string_view base64,
                                                                  std::int64_t now);

/// A line of `authorized_keys` that leads the key into its account and nowhere else. `serve` are
/// the words before `--account`: the program nixbuild-serve and its options.
[[nodiscard]] NIXBUILD_API std::string authorized_keys_line(const ListedKey& key,
                                                            std::span<const std::string> serve);

} // namespace nixbuild::server
