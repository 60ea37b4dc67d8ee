#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/server/permissions.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Settings in layers: one table says each setting's name, type, range, default, meaning, and where
/// it may be set; everything else (the configuration file, `nixbuild settings`, the SSH
/// environment, derivations, docs/settings.md) goes by that table. Pure: no database, no clock.
///
/// How a session uses it: `SessionSettings::resolve` once with the layers of its identity and the
/// environment that was handed over, then `for_derivation` for each build.
namespace nixbuild::server {

/// Where a value may come from, weakest first.
enum class SettingLevel : std::uint8_t {
  BuiltIn,        ///< the default in the table
  System,         ///< section `[settings]` of the configuration file
  Account,        ///< `nixbuild settings set`
  Key,            ///< `nixbuild settings set --key ID`
  SshEnvironment, ///< `NIXBUILD_MAX_CPU` or `NIXBUILDNET_MAX_CPU`
  Derivation,     ///< attributes of the same names, behind `settings-from-drv-env`
  Client,         ///< what the Nix client sends along with a build
};

inline constexpr std::size_t kSettingLevels = 7;

/// `built-in`, `system`, `account`, `key`, `ssh-env`, `derivation`, `client`.
[[nodiscard]] NIXBUILD_API std::string_view name_of(SettingLevel level) noexcept;

/// How a value is written, and what its number means.
enum class SettingType : std::uint8_t {
  Flag,        ///< 0 or 1; `true`, `1`; `false`, `0`, empty
  Number,      ///< a whole number
  Mebibytes,   ///< MiB; a plain number, or with unit (`16GiB`)
  Bytes,       ///< bytes; a plain number, or with unit (`64MiB`)
  Seconds,     ///< a plain number, or with unit (`90s`, `15m`, `12h`, `30d`, `4w`)
  Grace,       ///< seconds; `true` or `1` is `kForever`, `false` and empty are 0
  Permissions, ///< `Permissions::bits()`; names separated by blanks or commas
};

/// `keep-builds-running = true`.
inline constexpr std::int64_t kForever = INT64_MAX;

/// What a value of a stronger level does to those of weaker ones.
enum class SettingRule : std::uint8_t {
  Override,  ///< the strongest level wins
  Cap,       ///< the same, but never above what system, account and key say
  CapOrZero, ///< as `Cap`, where 0 means unlimited
};

/// The row of a setting, and its index in every array of values.
enum class SettingId : std::uint8_t {
  MaxCpu,
  MinCpu,
  DefaultCpu,
  MaxMem,
  MinMem,
  DefaultMemPerCpu,
  MaxDisk,
  Disk,
  MaxBuildRestarts,
  KeepBuildsRunning,
  Timeout,
  MaxSilentTime,
  MaxLogSize,
  ReuseBuildFailures,
  ReuseBuildTimeouts,
  KeepFailed,
  BuildTwice,
  InputDatabase,
  ShareResults,
  Priority,
  Interactive,
  SettingsFromSshEnv,
  SettingsFromDrvEnv,
  DefaultPermissions,
  AllowShell,
  Weight,
  KeyWeight,
  MaxRunningBuilds,
  MaxRunningCpus,
  MaxRunningMem,
  MaxCpuHoursPerMonth,
  MaxStoreBytes,
};

inline constexpr std::size_t kSettingCount = 32;

struct SettingSpec {
  SettingId id = SettingId::MaxCpu;
  std::string_view name; ///< `max-cpu`
  SettingType type = SettingType::Flag;
  std::string_view unit;         ///< for people: `cpus`, `MiB`; empty where the type says it
  std::string_view default_text; ///< empty: unset; `unset` says what that means
  std::string_view unset;
  std::int64_t least = 0;
  std::int64_t most = 0;
  std::uint8_t levels = 0;    ///< bits of `SettingLevel` without built-in
  bool operator_only = false; ///< not to be changed over SSH
  SettingRule rule = SettingRule::Override;
  std::string_view meaning;

  [[nodiscard]] constexpr bool allowed_at(SettingLevel level) const {
    return level == SettingLevel::BuiltIn || (levels >> static_cast<unsigned>(level) & 1U) != 0;
  }
};

/// In the order of `SettingId`.
[[nodiscard]] NIXBUILD_API std::span<const SettingSpec, kSettingCount> settings_table() noexcept;
[[nodiscard]] NIXBUILD_API const SettingSpec& spec_of(SettingId id) noexcept;
/// Nothing when no setting has that name.
[[nodiscard]] NIXBUILD_API const SettingSpec* find_setting(std::string_view name) noexcept;
/// Error `settings.unknown` (NotFound), with the nearest name there is.
[[nodiscard]] NIXBUILD_API const SettingSpec& setting_named(std::string_view name);

/// `a whole number from 1 to 4096`.
[[nodiscard]] NIXBUILD_API std::string allowed_text(const SettingSpec& spec);
/// The value of a text. Error `settings.value` naming setting, level, value and what is allowed.
[[nodiscard]] NIXBUILD_API std::int64_t
parse_setting(const SettingSpec& spec, SettingLevel level, std::string_view text);
/// The shortest text that parses to `value`.
[[nodiscard]] NIXBUILD_API std::string print_setting(const SettingSpec& spec, std::int64_t value);
/// Error `settings.level` naming the levels that the setting may be set in.
NIXBUILD_API void expect_level(const SettingSpec& spec, SettingLevel level);

/// One value in force, with where it comes from.
struct SettingExplanation {
  struct Step {
    SettingLevel level = SettingLevel::BuiltIn;
    std::int64_t value = 0;
  };

  std::optional<std::int64_t> value; ///< nothing: unset
  SettingLevel source = SettingLevel::BuiltIn;
  std::vector<Step> overridden; ///< strongest first; a value that a cap cut is among them
};

/// The values of all levels, and which of them hold. A value.
class NIXBUILD_API EffectiveSettings {
public:
  /// With the built-in values.
  EffectiveSettings();

  /// Errors `settings.level`, `settings.value`.
  void set(SettingLevel level, const SettingSpec& spec, std::string_view text);
  /// A value that was parsed already; errors as `set`.
  void set_value(SettingLevel level, const SettingSpec& spec, std::int64_t value);
  /// Each of `stored`. Errors: those of `set`, `settings.unknown`.
  void set_all(SettingLevel level, const std::map<std::string, std::string>& stored);

  [[nodiscard]] SettingExplanation explain(SettingId id) const;
  /// The value in force; nothing: unset.
  [[nodiscard]] std::optional<std::int64_t> value(SettingId id) const;
  /// Of a flag, or of any setting that is never unset.
  [[nodiscard]] std::int64_t number(SettingId id) const;

  [[nodiscard]] bool flag(SettingId id) const { return number(id) != 0; }

  [[nodiscard]] Permissions permissions() const;

private:
  std::array<std::array<std::optional<std::int64_t>, kSettingLevels>, kSettingCount> values_;
};

/// Labels of builds: upper-case name → value.
using Tags = std::map<std::string, std::string>;

inline constexpr std::size_t kMostTags = 32;
inline constexpr std::size_t kTagNameLength = 64;
inline constexpr std::size_t kTagValueBytes = 256;

/// Error `settings.tag` unless `name` is 1 to 64 of A-Z, 0-9 and _ and `value` at most 256 bytes
/// without control characters.
NIXBUILD_API void check_tag(std::string_view name, std::string_view value);
/// Sets a tag. Error `settings.tag` (see above; more than `kMostTags`).
NIXBUILD_API void put_tag(Tags& tags, std::string_view name, std::string_view value);

/// The layers that are known before a client says anything.
struct StoredLayers {
  std::map<std::string, std::string> system;  ///< of the configuration file
  std::map<std::string, std::string> account; ///< of the database
  std::map<std::string, std::string> key;     ///< of the database; empty without a key
  Tags key_tags;                              ///< a client cannot replace these
};

/// What holds for one build. Memory in bytes; absent: nothing was asked for.
struct BuildSettings {
  std::optional<unsigned> max_cpu;
  unsigned min_cpu = 1;
  std::optional<unsigned> default_cpu; ///< without experience; absent: the machine's usual
  std::optional<std::uint64_t> max_memory_bytes;
  std::uint64_t min_memory_bytes = 0;
  std::optional<std::uint64_t> default_memory_per_cpu_bytes;
  std::uint64_t disk_bytes = 0; ///< scratch disk; 0: files lie in memory
  unsigned max_restarts = 0;
  /// How long the build goes on when nobody waits any more; 0: it is stopped; absent: to its end.
  std::optional<std::chrono::seconds> grace = std::chrono::seconds(0);
  std::chrono::seconds timeout{0};         ///< 0: unlimited
  std::chrono::seconds max_silent_time{0}; ///< 0: unlimited
  std::uint64_t max_log_bytes = 0;         ///< 0: the machine's bound alone
  bool reuse_failures = false;
  bool reuse_timeouts = false;
  bool keep_failed = false;
  bool build_twice = false;
  bool input_database = false;
  bool share_results = false; ///< across accounts, for equal derivations with equal inputs
  int priority = 0;           ///< greater is sooner, among the builds of the account
  bool interactive = false;
  Tags tags;
  std::vector<std::string> warnings; ///< lines for the client, without newline
};

/// What an account may use at one time; absent: unlimited.
struct AccountQuotas {
  unsigned weight = 1; ///< share of the machine against other accounts
  std::optional<std::uint64_t> max_running_builds;
  std::optional<std::uint64_t> max_running_cpus;
  std::optional<std::uint64_t> max_running_memory_bytes;
  std::optional<std::uint64_t> max_cpu_hours_per_month;
  std::optional<std::uint64_t> max_store_bytes;
};

/// The settings of one session. A value; thread safe to read.
class NIXBUILD_API SessionSettings {
public:
  /// Lays the SSH environment (`NAME=value` each) over the stored layers. `NIXBUILD_X` wins over
  /// `NIXBUILDNET_X`. Variables that are no setting, or may not be set there, are ignored with a
  /// warning; so are all when `settings-from-ssh-env` is off. Errors: `settings.value`,
  /// `settings.tag`, and, when what is stored does not fit this version's table,
  /// `settings.unknown`, `settings.level`.
  [[nodiscard]] static SessionSettings resolve(const StoredLayers& layers,
                                               std::span<const std::string> environment);

  /// Adds the derivation's attributes (when `settings-from-drv-env` is on) and the client's options
  /// (a limit of 0 says nothing). Errors `settings.value`, `settings.tag`: the build is refused.
  [[nodiscard]] BuildSettings for_derivation(const model::BasicDerivation& derivation,
                                             const model::BuildOptions& options) const;

  /// The values behind `for_derivation`, with where they come from.
  [[nodiscard]] EffectiveSettings effective_for(const model::BasicDerivation& derivation,
                                                const model::BuildOptions& options) const;

  [[nodiscard]] AccountQuotas quotas() const;

  [[nodiscard]] const EffectiveSettings& effective() const noexcept { return settings_; }

  [[nodiscard]] const Tags& tags() const noexcept { return tags_; }

  /// Lines that the client may be shown once.
  [[nodiscard]] const std::vector<std::string>& warnings() const noexcept { return warnings_; }

private:
  EffectiveSettings layered(const model::BasicDerivation& derivation,
                            const model::BuildOptions& options,
                            Tags& tags,
                            std::vector<std::string>& lines) const;

  EffectiveSettings settings_;
  Tags tags_;
  Tags key_tags_; ///< stay as they are, whatever the client says
  std::vector<std::string> warnings_;
};

/// docs/settings.md.
[[nodiscard]] NIXBUILD_API std::string settings_document();

} // namespace nixbuild::server
