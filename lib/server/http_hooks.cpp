#include "http_hooks.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::server {

namespace {

/// Errors: `settings.unknown`, `settings.level`, `settings.operator`.
const SettingSpec& changeable_by_token(std::string_view name) {
  const auto& spec = setting_named(name);
  expect_level(spec, SettingLevel::Account);
  if (spec.operator_only) {
    throw Error(Reaction::Denied,
                "settings.operator",
                fmt::format("{} is set by the operator of the service", spec.name));
  }
  return spec;
}

} // namespace

HttpHooks http_hooks(const HttpReach& reach) {
  HttpHooks hooks;
  hooks.cancel = [reach](store::AccountId account, std::int64_t build) {
    return reach.builds.cancel(account, build);
  };
  hooks.build_load = [reach] {
    const auto counts = reach.leases.counts();
    return BuildLoad{counts.running, counts.builds - counts.running};
  };
  hooks.host_state = [reach] {
    return HostState{reach.faults.is_closed(), reach.faults.is_without_kvm(), reach.faults.count()};
  };
  hooks.machine_walls = [reach] {
    const auto walls = reach.executor.walls();
    return MachineWalls{walls.machines, walls.weaker};
  };
  hooks.list_settings = [reach](store::AccountId account) {
    const auto effective = reach.accounts.settings_of(account).effective();
    std::vector<std::pair<std::string, std::string>> list;
    for (const auto& spec : settings_table()) {
      const auto value = effective.value(spec.id);
      list.emplace_back(spec.name, value ? print_setting(spec, *value) : std::string());
    }
    return list;
  };
  hooks.get_setting = [reach](store::AccountId account,
                              std::string_view name) -> std::optional<std::string> {
    const auto* spec = find_setting(name);
    const auto value = spec != nullptr
                           ? reach.accounts.settings_of(account).effective().value(spec->id)
                           : std::nullopt;
    return value ? std::optional(print_setting(*spec, *value)) : std::nullopt;
  };
  hooks.set_setting =
      [reach](store::AccountId account, std::string_view name, std::string_view value) {
        const auto& spec = changeable_by_token(name);
        static_cast<void>(parse_setting(spec, SettingLevel::Account, value));
        reach.db.set_account_setting(account, name, value);
      };
  hooks.unset_setting = [reach](store::AccountId account, std::string_view name) {
    static_cast<void>(changeable_by_token(name));
    reach.db.set_account_setting(account, name, std::nullopt);
  };
  return hooks;
}

} // namespace nixbuild::server
