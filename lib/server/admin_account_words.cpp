// The words of the commands on keys and settings, and of those that answer sshd.

#include "admin_commands.hpp"

namespace nixbuild::server {

namespace {

constexpr OptionSpec kPermission{
    "--permission",
    "PERMISSION",
    "store:read, store:write, build:read, build:write, account:write (may be given often), none, "
    "or default"};
constexpr OptionSpec kTag{"--tag", "NAME=VALUE", "label of its builds (may be given often)"};
constexpr OptionSpec kExpires{
    "--expires", "WHEN", "2027-01-31, 2027-01-31T12:00:00Z, 30d, 12h, or never"};
constexpr OptionSpec kOfKey{"--key", "ID", "of this key instead of the account"};
constexpr OptionSpec kKeysFile{"--keys-file", "FILE", "the list of keys (else DIR/keys)"};

std::vector<CommandSpec> key_commands() {
  return {
      {"key add",
       "FILE",
       "let an SSH key into the account",
       "FILE holds a public key (~/.ssh/id_ed25519.pub), or is - for standard input; the key "
       "itself\n"
       "may stand there as well. One key leads into one account. Without --permission a key may "
       "do\n"
       "what the account's setting default-permissions says. Times are UTC; a date is its 0:00.\n"
       "sshd learns of keys by AuthorizedKeysCommand (nixbuild keys-for --help), or from a file\n"
       "(nixbuild authorized-keys).",
       {kJson, {"--name", "NAME", "else the comment of the key"}, kPermission, kTag, kExpires},
       1,
       kAnyNumber},
      {"key list",
       "",
       "list the account's SSH keys",
       "Permissions in parentheses are those of the setting default-permissions.",
       {kJson},
       0,
       0},
      {"key set",
       "ID",
       "change what a key may do",
       "Permissions given replace all that the key has; `default` gives it those of the account.\n"
       "--tag NAME= removes a tag. Sessions that run keep what they have.",
       {kJson, {"--name", "NAME", "what it is called"}, kPermission, kTag, kExpires},
       1,
       1},
      {"key remove",
       "ID",
       "lock an SSH key out",
       "Its settings go with it. Sessions that run go on to their end.",
       {kJson},
       1,
       1},
  };
}

std::vector<CommandSpec> settings_commands() {
  return {
      {"settings show",
       "[NAME]",
       "show settings and where they come from",
       "Over SSH: what holds for this very session. docs/settings.md describes all.",
       {kJson, kOfKey},
       0,
       1},
      {"settings set",
       "NAME VALUE",
       "change a setting of the account or a key",
       "A value that begins with - stands behind --: nixbuild settings set -- priority -5.\n"
       "Quotas are set by the operator, not over SSH.",
       {kJson, kOfKey},
       2,
       2},
      {"settings unset",
       "NAME",
       "let a weaker level decide again",
       "One that is not set is no error.",
       {kJson, kOfKey},
       1,
       1},
  };
}

std::vector<CommandSpec> sshd_commands() {
  constexpr auto here = CommandPlace::Here;
  return {
      {"keys-for",
       "USER TYPE KEY",
       "answer sshd which account a key leads into",
       "For sshd_config:\n"
       "    AuthorizedKeysCommand /usr/local/bin/nixbuild --state-dir DIR keys-for %u %t %k\n"
       "    AuthorizedKeysCommandUser USER\n"
       "Prints the line of authorized_keys of a key that is known and has not expired, and "
       "nothing\n"
       "for any other. USER above is the daemon's own user, who may read DIR/keys; another one "
       "needs\n"
       "a list that it may read: daemon.keys-file of the configuration and --keys-file. Which "
       "user\n"
       "logs in does not matter. Neither daemon nor database is asked.",
       {kKeysFile},
       3,
       3,
       here,
       false},
      {"authorized-keys",
       "",
       "print lines for authorized_keys",
       "One for each key that has not expired, of the account given by --account or of all. For\n"
       "servers without AuthorizedKeysCommand: run it again after each change of a key. An "
       "expired\n"
       "key is refused by the daemon in any case.",
       {kKeysFile},
       0,
       0,
       here,
       false},
  };
}

} // namespace

std::vector<CommandSpec> account_commands() {
  auto all = key_commands();
  for (auto& more : {settings_commands(), sshd_commands()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

} // namespace nixbuild::server
