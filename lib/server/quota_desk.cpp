#include "quota_desk.hpp"

#include "api_time.hpp"

#include <nixbuild/base/error.hpp>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <string>

namespace nixbuild::server {

namespace {

/// How the scheduler knows an account.
scheduler::AccountPolicy policy_of_account(store::AccountId account, const AccountQuotas& quotas) {
  constexpr std::uint64_t kMost = std::numeric_limits<unsigned>::max();
  const auto small = [&](const std::optional<std::uint64_t>& value) {
    return value ? std::optional(static_cast<unsigned>(std::min(*value, kMost))) : std::nullopt;
  };
  scheduler::AccountPolicy policy;
  policy.account = std::to_string(account.value);
  policy.weight = quotas.weight;
  policy.quota.running = small(quotas.max_running_builds);
  policy.quota.cpus = small(quotas.max_running_cpus);
  policy.quota.memory_bytes = quotas.max_running_memory_bytes;
  if (quotas.max_cpu_hours_per_month) {
    policy.quota.cpu_time = std::chrono::hours(static_cast<std::int64_t>(
        std::min<std::uint64_t>(*quotas.max_cpu_hours_per_month, 1U << 30)));
  }
  return policy;
}

} // namespace

std::int64_t QuotaDesk::now_us() const {
  return std::chrono::duration_cast<std::chrono::microseconds>(clock_.wall().time_since_epoch())
      .count();
}

void QuotaDesk::apply(store::AccountId account, const AccountQuotas& quotas) {
  leases_.set_account(policy_of_account(account, quotas));
  store_.set_max_bytes(account, quotas.max_store_bytes);
}

void QuotaDesk::apply_key(store::AccountId account,
                          std::int64_t key,
                          const SessionSettings& settings) {
  constexpr double kUsual = 100;
  const auto weight = static_cast<double>(settings.effective().number(SettingId::KeyWeight));
  leases_.set_key_weight(std::to_string(account.value), std::to_string(key), weight / kUsual);
}

void QuotaDesk::tell_all() {
  count_cpu_time();
  for (const auto& account : store_.db().accounts()) {
    StoredLayers layers;
    layers.system = accounts_.system_settings();
    layers.account = store_.db().account_settings(account.id);
    apply(account.id, SessionSettings::resolve(layers, {}).quotas());
    for (const auto& key : store_.db().keys(account.id)) {
      try {
        layers.key = store_.db().key_settings(account.id, key.id);
        apply_key(account.id, key.id, SessionSettings::resolve(layers, {}));
      } catch (const Error&) {
        // What is wrong with the settings of one key, its own sessions are told.
      }
    }
  }
}

void QuotaDesk::count_cpu_time() {
  const auto month = begin_of_month(now_us());
  for (const auto& account : store_.db().accounts()) {
    const auto used = store_.db().cpu_time_us(account.id, month);
    leases_.set_cpu_time_used(std::to_string(account.id.value),
                              scheduler::CpuTime(static_cast<std::int64_t>(used / 1000)));
  }
  month_us_ = month;
}

bool QuotaDesk::month_is_over() const {
  return begin_of_month(now_us()) != month_us_;
}

} // namespace nixbuild::server
