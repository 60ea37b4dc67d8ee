#include "settings_text.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/settings.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

namespace nixbuild::server {

namespace {

constexpr std::string_view kOurs = "NIXBUILD_";
constexpr std::string_view kTheirs = "NIXBUILDNET_";
constexpr std::string_view kTagVariable = "TAG_";
constexpr std::size_t kMostWarnings = 20;

/// Variables with these names, or beginning with these words, are no settings.
bool is_something_else(std::string_view name) {
  constexpr std::array<std::string_view, 3> whole = {"STATE_DIR", "TOKEN", "OIDC_ID_TOKEN"};
  constexpr std::array<std::string_view, 3> beginnings = {"TEST_", "HOOK_", "GITHUB_"};
  return std::find(whole.begin(), whole.end(), name) != whole.end() ||
         std::any_of(beginnings.begin(), beginnings.end(), [&](std::string_view beginning) {
           return name.starts_with(beginning);
         });
}

const SettingSpec* setting_of_variable(std::string_view name) {
  const auto table = settings_table();
  const auto found = std::find_if(table.begin(), table.end(), [&](const SettingSpec& spec) {
    return variable_of(spec) == name;
  });
  return found == table.end() ? nullptr : &*found;
}

struct Variable {
  std::string_view whole; ///< `NIXBUILD_MAX_CPU`
  std::string_view name;  ///< `MAX_CPU`
  std::string_view value;
};

/// Nothing when the name has neither prefix.
std::optional<Variable> variable_named(std::string_view whole, std::string_view value) {
  for (const auto prefix : {kOurs, kTheirs}) {
    if (whole.starts_with(prefix) && !is_something_else(whole.substr(prefix.size()))) {
      return Variable{whole, whole.substr(prefix.size()), value};
    }
  }
  return std::nullopt;
}

/// Ours behind those of nixbuild.net, so that what comes later wins.
void weakest_first(std::vector<Variable>& variables) {
  std::stable_partition(variables.begin(), variables.end(), [](const Variable& variable) {
    return variable.whole.starts_with(kTheirs);
  });
}

class Warnings {
public:
  explicit Warnings(std::vector<std::string>& lines) : lines_(lines) {}

  void add(std::string line) {
    if (lines_.size() < kMostWarnings) {
      lines_.push_back(std::move(line));
    } else if (lines_.size() == kMostWarnings) {
      lines_.emplace_back("and more of the kind");
    }
  }

private:
  std::vector<std::string>& lines_;
};

/// One layer of variables over what is there.
void apply(EffectiveSettings& settings,
           Tags& tags,
           const Tags& key_tags,
           SettingLevel level,
           std::vector<Variable> variables,
           bool warn_of_unknown,
           Warnings& warnings) {
  weakest_first(variables);
  for (const auto& variable : variables) {
    if (variable.name.starts_with(kTagVariable)) {
      const auto name = variable.name.substr(kTagVariable.size());
      if (!key_tags.contains(std::string(name))) {
        put_tag(tags, name, variable.value);
      }
      continue;
    }
    const auto* spec = setting_of_variable(variable.name);
    if (spec == nullptr) {
      if (warn_of_unknown) {
        warnings.add(
            fmt::format("{} is ignored: there is no such setting", shown_value(variable.whole)));
      }
    } else if (!spec->allowed_at(level)) {
      warnings.add(fmt::format("{} is ignored: {} can be set in {} only",
                               variable.whole,
                               spec->name,
                               levels_text(*spec)));
    } else {
      settings.set(level, *spec, variable.value);
    }
  }
}

std::vector<Variable> variables_of(const model::BasicDerivation& derivation) {
  std::vector<Variable> variables;
  constexpr std::string_view common = "NIXBUILD";
  for (auto at = derivation.environment.lower_bound(std::string(common));
       at != derivation.environment.end() && at->first.starts_with(common);
       ++at) {
    if (auto variable = variable_named(at->first, at->second)) {
      variables.push_back(*variable);
    }
  }
  return variables;
}

void apply_client_options(EffectiveSettings& settings, const model::BuildOptions& options) {
  const auto limit = [&](SettingId id, std::uint64_t value) {
    const auto& spec = spec_of(id);
    if (value > 0) {
      settings.set_value(
          SettingLevel::Client,
          spec,
          static_cast<std::int64_t>(std::min(value, static_cast<std::uint64_t>(spec.most))));
    }
  };
  const auto seconds = [](std::chrono::seconds time) {
    return static_cast<std::uint64_t>(std::max<std::chrono::seconds::rep>(0, time.count()));
  };
  limit(SettingId::Timeout, seconds(options.timeout));
  limit(SettingId::MaxSilentTime, seconds(options.max_silent_time));
  limit(SettingId::MaxLogSize, options.max_log_bytes.value_or(0));
}

std::optional<std::uint64_t>
count_of(const EffectiveSettings& settings, SettingId id, std::uint64_t unit = 1) {
  const auto value = settings.value(id);
  return value ? std::optional(static_cast<std::uint64_t>(*value) * unit) : std::nullopt;
}

std::optional<unsigned> cpus_of(const EffectiveSettings& settings, SettingId id) {
  const auto value = settings.value(id);
  return value ? std::optional(static_cast<unsigned>(*value)) : std::nullopt;
}

void set_size(BuildSettings& build, const EffectiveSettings& settings, Warnings& warnings) {
  build.max_cpu = cpus_of(settings, SettingId::MaxCpu);
  build.min_cpu = cpus_of(settings, SettingId::MinCpu).value_or(1);
  if (build.max_cpu && build.min_cpu > *build.max_cpu) {
    warnings.add(
        fmt::format("min-cpu {} exceeds max-cpu {}, which holds", build.min_cpu, *build.max_cpu));
    build.min_cpu = *build.max_cpu;
  }
  build.default_cpu = cpus_of(settings, SettingId::DefaultCpu);
  if (build.default_cpu) {
    build.default_cpu = std::max(*build.default_cpu, build.min_cpu);
    build.default_cpu = std::min(*build.default_cpu, build.max_cpu.value_or(*build.default_cpu));
  }
  build.max_memory_bytes = count_of(settings, SettingId::MaxMem, kMiB);
  build.min_memory_bytes = count_of(settings, SettingId::MinMem, kMiB).value_or(0);
  if (build.max_memory_bytes && build.min_memory_bytes > *build.max_memory_bytes) {
    warnings.add(fmt::format("min-mem {} exceeds max-mem {}, which holds",
                             build.min_memory_bytes / kMiB,
                             *build.max_memory_bytes / kMiB));
    build.min_memory_bytes = *build.max_memory_bytes;
  }
  build.default_memory_per_cpu_bytes = count_of(settings, SettingId::DefaultMemPerCpu, kMiB);
  build.disk_bytes = count_of(settings, SettingId::Disk, kMiB).value_or(0);
  if (const auto most = count_of(settings, SettingId::MaxDisk, kMiB)) {
    build.disk_bytes = std::min(build.disk_bytes, *most);
  }
}

} // namespace

std::string variable_of(const SettingSpec& spec) {
  std::string name(spec.name);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return name;
}

void check_tag(std::string_view name, std::string_view value) {
  const bool good_name = !name.empty() && name.size() <= kTagNameLength &&
                         std::all_of(name.begin(), name.end(), [](char c) {
                           return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
                         });
  if (!good_name) {
    throw Error(Reaction::Reject,
                "settings.tag",
                fmt::format("tag name '{}' is not 1 to {} characters of A-Z, 0-9 and _",
                            shown_value(name),
                            kTagNameLength));
  }
  if (value.size() > kTagValueBytes) {
    throw Error(
        Reaction::Reject,
        "settings.tag",
        fmt::format(
            "the value of tag {} has {} bytes, more than {}", name, value.size(), kTagValueBytes));
  }
  if (std::any_of(value.begin(), value.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
      })) {
    throw Error(Reaction::Reject,
                "settings.tag",
                fmt::format("the value of tag {} has a control character", name));
  }
}

void put_tag(Tags& tags, std::string_view name, std::string_view value) {
  check_tag(name, value);
  if (!tags.contains(std::string(name)) && tags.size() >= kMostTags) {
    throw Error(Reaction::Reject,
                "settings.tag",
                fmt::format("tag {} is one more than {}", name, kMostTags));
  }
  tags.insert_or_assign(std::string(name), std::string(value));
}

SessionSettings SessionSettings::resolve(const StoredLayers& layers,
                                         std::span<const std::string> environment) {
  SessionSettings session;
  session.settings_.set_all(SettingLevel::System, layers.system);
  session.settings_.set_all(SettingLevel::Account, layers.account);
  session.settings_.set_all(SettingLevel::Key, layers.key);
  session.key_tags_ = layers.key_tags;
  session.tags_ = layers.key_tags;
  std::vector<Variable> variables;
  for (const std::string_view entry : environment) {
    const auto equals = std::min(entry.find('='), entry.size());
    const auto value = equals < entry.size() ? entry.substr(equals + 1) : std::string_view();
    if (auto variable = variable_named(entry.substr(0, equals), value)) {
      variables.push_back(*variable);
    }
  }
  Warnings warnings(session.warnings_);
  if (!session.settings_.flag(SettingId::SettingsFromSshEnv)) {
    if (!variables.empty()) {
      warnings.add("settings in the SSH environment are ignored: settings-from-ssh-env is off");
    }
    return session;
  }
  apply(session.settings_,
        session.tags_,
        session.key_tags_,
        SettingLevel::SshEnvironment,
        std::move(variables),
        true,
        warnings);
  return session;
}

EffectiveSettings SessionSettings::layered(const model::BasicDerivation& derivation,
                                           const model::BuildOptions& options,
                                           Tags& tags,
                                           std::vector<std::string>& lines) const {
  auto settings = settings_;
  Warnings warnings(lines);
  auto variables = variables_of(derivation);
  if (settings.flag(SettingId::SettingsFromDrvEnv)) {
    // A builder may have variables of its own with such names: unknown ones are its own affair.
    const auto level = SettingLevel::Derivation;
    apply(settings, tags, key_tags_, level, std::move(variables), false, warnings);
  } else {
    const auto meant =
        std::find_if(variables.begin(), variables.end(), [](const Variable& variable) {
          return variable.name.starts_with(kTagVariable) ||
                 setting_of_variable(variable.name) != nullptr;
        });
    if (meant != variables.end()) {
      warnings.add(fmt::format("{} of the derivation is ignored: settings-from-drv-env is off",
                               shown_value(meant->whole)));
    }
  }
  apply_client_options(settings, options);
  return settings;
}

EffectiveSettings SessionSettings::effective_for(const model::BasicDerivation& derivation,
                                                 const model::BuildOptions& options) const {
  auto tags = tags_;
  std::vector<std::string> lines;
  return layered(derivation, options, tags, lines);
}

BuildSettings SessionSettings::for_derivation(const model::BasicDerivation& derivation,
                                              const model::BuildOptions& options) const {
  BuildSettings build;
  build.tags = tags_;
  const auto settings = layered(derivation, options, build.tags, build.warnings);
  Warnings warnings(build.warnings);
  set_size(build, settings, warnings);
  build.max_restarts = static_cast<unsigned>(settings.number(SettingId::MaxBuildRestarts));
  const auto grace = settings.number(SettingId::KeepBuildsRunning);
  build.grace = grace == kForever ? std::nullopt : std::optional(std::chrono::seconds(grace));
  build.timeout = std::chrono::seconds(settings.number(SettingId::Timeout));
  build.max_silent_time = std::chrono::seconds(settings.number(SettingId::MaxSilentTime));
  build.max_log_bytes = static_cast<std::uint64_t>(settings.number(SettingId::MaxLogSize));
  build.reuse_failures = settings.flag(SettingId::ReuseBuildFailures);
  build.reuse_timeouts = settings.flag(SettingId::ReuseBuildTimeouts);
  build.keep_failed = settings.flag(SettingId::KeepFailed);
  build.build_twice = settings.flag(SettingId::BuildTwice);
  build.input_database = settings.flag(SettingId::InputDatabase);
  build.share_results = settings.flag(SettingId::ShareResults);
  build.priority = static_cast<int>(settings.number(SettingId::Priority));
  build.interactive = settings.flag(SettingId::Interactive);
  return build;
}

AccountQuotas SessionSettings::quotas() const {
  AccountQuotas quotas;
  quotas.weight = static_cast<unsigned>(settings_.number(SettingId::Weight));
  quotas.max_running_builds = count_of(settings_, SettingId::MaxRunningBuilds);
  quotas.max_running_cpus = count_of(settings_, SettingId::MaxRunningCpus);
  quotas.max_running_memory_bytes = count_of(settings_, SettingId::MaxRunningMem, kMiB);
  quotas.max_cpu_hours_per_month = count_of(settings_, SettingId::MaxCpuHoursPerMonth);
  quotas.max_store_bytes = count_of(settings_, SettingId::MaxStoreBytes);
  return quotas;
}

} // namespace nixbuild::server
