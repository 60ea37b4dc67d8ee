#include "admin_text.hpp"
#include "http_tokens.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/server/key_list.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

namespace nixbuild::server {

namespace {

constexpr std::int64_t kTouchSeconds = 60;

/// A reader sees the old text or the new one, never a part.
void replace_file(const std::filesystem::path& path, std::string_view text) {
  const auto next = path.string() + ".new";
  const auto failed = [&] {
    throw_system_error("keys.publish", "writing the list of keys " + path.string());
  };
  {
    const UniqueFd file(::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    // Whatever the umask says: it holds public keys and account names, and sshd's lookup may run as
    // a user of its own. The state directory is closed by itself.
    if (!file || ::fchmod(file.get(), 0644) != 0) {
      failed();
    }
    while (!text.empty()) {
      const auto count = ::write(file.get(), text.data(), text.size());
      if (count < 0) {
        failed();
      }
      text.remove_prefix(static_cast<std::size_t>(count));
    }
  }
  if (::rename(next.c_str(), path.c_str()) != 0) {
    failed();
  }
}

} // namespace

Identity AccountDesk::identify(const Handoff& handoff) {
  Identity identity;
  const auto account = db_.find_account(handoff.account);
  if (!account) {
    const auto shown = printable(handoff.account);
    throw Error(
        Reaction::NotFound,
        "account.missing",
        fmt::format("there is no account '{}'; nixbuild account add {} makes it", shown, shown));
  }
  identity.account = *account;
  identity.account_name = handoff.account;
  identity.layers.system = settings_.system;
  identity.layers.account = db_.account_settings(*account);
  EffectiveSettings settings;
  settings.set_all(SettingLevel::System, identity.layers.system);
  settings.set_all(SettingLevel::Account, identity.layers.account);
  identity.permissions = handoff.limited ? settings.permissions() : Permissions::all();
  if (handoff.key == 0) {
    return identity;
  }
  const auto key = db_.key(*account, handoff.key);
  if (!key) {
    throw Error(Reaction::Denied,
                "key.refused",
                fmt::format("key {} does not lead into the account '{}' (any more)",
                            handoff.key,
                            handoff.account));
  }
  if (key->expires_at != 0 && key->expires_at <= now()) {
    throw Error(
        Reaction::Denied,
        "key.expired",
        fmt::format("your key ({}) for the account '{}' expired at {}; who runs this builder "
                    "can make key {} valid again",
                    printable(key->name),
                    handoff.account,
                    iso_time(key->expires_at),
                    key->id));
  }
  identity.key = key->id;
  identity.key_name = key->name;
  identity.permissions =
      key->permissions ? Permissions::parse(*key->permissions) : settings.permissions();
  identity.layers.key = db_.key_settings(*account, key->id);
  identity.layers.key_tags = key->tags;
  if (key->last_used_at + kTouchSeconds <= now()) {
    db_.touch_key(*account, key->id, now());
  }
  return identity;
}

void AccountDesk::publish_keys() {
  const std::lock_guard lock(publishing_);
  std::vector<ListedKey> list;
  for (const auto& account : db_.accounts()) {
    for (const auto& key : db_.keys(account.id)) {
      list.push_back({key.id,
                      account.name,
                      key.expires_at,
                      key.algorithm,
                      base64_encode(bytes_of(key.blob)),
                      key.name});
    }
  }
  const auto text = print_key_list(list);
  for (const auto& path : settings_.key_lists) {
    replace_file(path, text);
  }
}

std::size_t AccountDesk::revoke_tokens(const std::string& account) const {
  return settings_.tokens_file.empty() ? 0 : remove_account_tokens(settings_.tokens_file, account);
}

SessionSettings AccountDesk::settings_of(store::AccountId account) const {
  StoredLayers layers;
  layers.system = settings_.system;
  layers.account = db_.account_settings(account);
  return SessionSettings::resolve(layers, {});
}

} // namespace nixbuild::server
