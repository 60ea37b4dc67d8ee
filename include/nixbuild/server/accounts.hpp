#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/permissions.hpp>
#include <nixbuild/server/settings.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace nixbuild::server {

/// Who a session is, and what it may do. A value, true at the moment it was asked for.
struct Identity {
  store::AccountId account;
  std::string account_name;
  std::int64_t key = 0; ///< 0: without a key
  std::string key_name;
  Permissions permissions;
  StoredLayers layers; ///< for `SessionSettings::resolve`
};

/// Accounts and keys of one daemon: tells who a hand-over comes from, and keeps the list of keys
/// that sshd is answered from. Thread safe; every call asks the database and may block.
class NIXBUILD_API AccountDesk {
public:
  struct Settings {
    std::map<std::string, std::string> system; ///< section `[settings]` of the configuration
    /// Files that are to hold the list of keys (see `key_list.hpp`), readable by everybody who can
    /// enter their folder.
    std::vector<std::filesystem::path> key_lists;
    std::string tokens_file; ///< of the HTTP interface; empty: it has none
  };

  /// Database and clock outlive the desk.
  AccountDesk(store::MetadataDb& db, const Clock& clock, Settings settings)
      : db_(db), clock_(clock), settings_(std::move(settings)) {}

  /// With a key: the key's permissions, else the account's `default-permissions`. Without a key:
  /// the same `default-permissions` when the hand-over is limited, and everything for whoever can
  /// open the daemon's socket by himself. Notes the time of the key's use, at most once a minute.
  /// Errors: `account.missing` (NotFound), `key.refused` (Denied: unknown, or of another account),
  /// `key.expired` (Denied), and those of a stored setting that this version does not know.
  [[nodiscard]] Identity identify(const Handoff& handoff);

  /// Writes the list of keys anew, each file in one step. Error `keys.publish` naming the file.
  void publish_keys();

  /// Takes the account's tokens of the HTTP interface away, so that none of them leads into a later
  /// account of the same name; returns how many. Error `http.tokens`.
  std::size_t revoke_tokens(const std::string& account) const;

  /// Seconds since 1970.
  [[nodiscard]] std::int64_t now() const { return unix_seconds(clock_.wall()); }

  /// What holds for an account whoever comes: no key, no SSH environment. Errors as
  /// SessionSettings::resolve.
  [[nodiscard]] SessionSettings settings_of(store::AccountId account) const;

  [[nodiscard]] const std::map<std::string, std::string>& system_settings() const noexcept {
    return settings_.system;
  }

private:
  store::MetadataDb& db_;
  const Clock& clock_;
  Settings settings_;
  std::mutex publishing_;
};

} // namespace nixbuild::server
