#include "state.hpp"

#include <algorithm>

namespace nixbuild::scheduler {

Account& Scheduler::State::account_of(const std::string& name) {
  auto& slot = accounts[name];
  if (!slot) {
    slot = std::make_unique<Account>();
    slot->name = name;
  }
  return *slot;
}

bool Scheduler::State::quota_allows(const Account& account,
                                    unsigned cpus,
                                    std::uint64_t memory_bytes) const {
  const auto& quota = account.quota;
  const auto& usage = account.usage;
  return (!quota.running || usage.running < *quota.running) &&
         (!quota.cpus || usage.cpus + cpus <= *quota.cpus) &&
         (!quota.memory_bytes || usage.memory_bytes + memory_bytes <= *quota.memory_bytes) &&
         (!quota.cpu_time || usage.cpu_time + usage.committed < *quota.cpu_time);
}

void Scheduler::State::refresh(Share& share) {
  const auto& account = *share.account;
  const Build* const held = account.held_for;
  auto allowed = [&](const ShareClass& of) {
    return of.builds > 0 && quota_allows(account, of.size->cpus, of.size->memory_bytes) &&
           (held == nullptr || held->size_class == of.size);
  };
  const bool active = std::any_of(share.classes.begin(), share.classes.end(), [&](const auto& of) {
    return allowed(*of.second);
  });
  if (share.active && !active && share.reserved == nullptr) {
    share.pool->order.erase(ByPass{share.pass, share.serial, &share});
  }
  if (!share.active && active) {
    // Whoever comes back has saved nothing up while there was nothing to start.
    share.pass = std::max(share.pass, share.pool->virtual_time);
    if (share.reserved == nullptr) {
      share.pool->order.insert(ByPass{share.pass, share.serial, &share});
    }
  }
  share.active = active;
  for (auto& [serial, of] : share.classes) {
    const bool eligible = allowed(*of);
    if (eligible != of->eligible) {
      of->eligible = eligible;
      if (eligible) {
        of->size->shares.insert(ByPass{share.pass, share.serial, &share});
      } else {
        of->size->shares.erase(ByPass{share.pass, share.serial, &share});
      }
    }
  }
  if (share.reserved != nullptr && share.reserved->size_class != nullptr) {
    const auto of = share.classes.find(share.reserved->size_class->serial);
    if (of == share.classes.end() || !of->second->eligible) {
      release_reservation(share); // no machine idles for a quota
    }
  }
}

void Scheduler::State::refresh(Account& account) {
  for (auto& [name, share] : account.shares) {
    refresh(*share);
  }
}

void Scheduler::State::release_hold(Account& account) {
  account.held_for = nullptr;
  refresh(account);
}

std::optional<QuotaState> Scheduler::State::quota_state(const Build& build) const {
  const auto& quota = build.account->quota;
  const auto& usage = build.account->usage;
  if (quota.cpu_time && usage.cpu_time + usage.committed >= *quota.cpu_time) {
    return QuotaState{"cpu-time",
                      static_cast<std::uint64_t>((usage.cpu_time + usage.committed).count() / 1000),
                      static_cast<std::uint64_t>(quota.cpu_time->count() / 1000),
                      static_cast<std::uint64_t>(build.size.cpus * build.expected.count() / 1000)};
  }
  if (quota.running && usage.running >= *quota.running) {
    return QuotaState{"running", usage.running, *quota.running, 1};
  }
  if (quota.cpus && usage.cpus + build.size.cpus > *quota.cpus) {
    return QuotaState{"cpus", usage.cpus, *quota.cpus, build.size.cpus};
  }
  if (quota.memory_bytes && usage.memory_bytes + build.size.memory_bytes > *quota.memory_bytes) {
    return QuotaState{"memory", usage.memory_bytes, *quota.memory_bytes, build.size.memory_bytes};
  }
  return std::nullopt;
}

} // namespace nixbuild::scheduler
