#include "settings_text.hpp"

#include <fmt/format.h>

namespace nixbuild::server {

namespace {

constexpr std::string_view kDocumentHead = R"(# Settings

Made from the table in `lib/server/settings_table.cpp`: change it there, then run the unit tests of the
server with `NIXBUILD_TEST_ACCEPT=1`.

## Levels

A setting may be given in several places. From the weakest to the strongest:

| level | where |
|---|---|
| built-in | the default below |
| system | section `[settings]` of the configuration file: `max-cpu = 8` |
| account | `nixbuild --account NAME settings set max-cpu 8` |
| key | `nixbuild --account NAME settings set max-cpu 8 --key ID` |
| ssh-env | the client's SSH environment: `SetEnv NIXBUILD_MAX_CPU=8` in its `ssh_config`, and `AcceptEnv NIXBUILD_* NIXBUILDNET_*` in the server's `sshd_config` |
| derivation | an attribute of the derivation: `NIXBUILD_MAX_CPU = 8;` (only with `settings-from-drv-env`) |
| client | an option of the Nix client: `--timeout 3600` |

The strongest one holds. Where a setting is a *cap*, no level gets beyond what system, account and key
say: the smallest of these is the limit, and stronger levels can only lower it. Built-in values are
no caps.

`nixbuild settings show` says which value holds, where it comes from and what it overrides.

## Variables

The name in capitals, `_` for `-`, with `NIXBUILD_` or `NIXBUILDNET_` in front; where both are given,
`NIXBUILD_` holds. A variable that is no setting, or cannot be set in that place, is ignored with a
warning. A value that is not allowed is an error: of the session in the SSH environment, of the build
in a derivation.

`NIXBUILD_TAG_NAME=VALUE` puts a tag on builds: a label to find them by. Up to 32 tags; names of A-Z,
0-9 and `_` up to 64 characters, values up to 256 bytes. A key's own tags cannot be replaced.

## Values

- Flags: `true` or `1`; `false`, `0` or nothing.
- Memory in MiB, also with a unit: `16000`, `16GiB`.
- Sizes in bytes, also with a unit: `1048576`, `64MiB`.
- Times in seconds, also with a unit: `90`, `90s`, `15m`, `12h`, `30d`, `4w`.
- Lists: words separated by blanks or commas.

## All settings

| setting | default | allowed | cap | levels |
|---|---|---|---|---|
)";

std::string default_of(const SettingSpec& spec) {
  return spec.default_text.empty() ? std::string(spec.unset)
                                   : fmt::format("`{}`", spec.default_text);
}

} // namespace

std::string settings_document() {
  std::string text(kDocumentHead);
  for (const auto& spec : settings_table()) {
    text += fmt::format("| [`{}`](#{}) | {} | {} | {} | {} |\n",
                        spec.name,
                        spec.name,
                        default_of(spec),
                        allowed_text(spec),
                        spec.rule == SettingRule::Override ? "" : "yes",
                        levels_text(spec));
  }
  for (const auto& spec : settings_table()) {
    text += fmt::format("\n### {}\n\n{}", spec.name, spec.meaning);
    if (!spec.unit.empty()) {
      text += fmt::format(" Unit: {}.", spec.unit);
    }
    if (spec.operator_only) {
      text += " Only the operator sets it: not over SSH.";
    }
    text += "\n";
  }
  return text;
}

} // namespace nixbuild::server
