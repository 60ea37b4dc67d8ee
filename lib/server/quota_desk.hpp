#pragma once

#include <nixbuild/base/clock.hpp>
#include <nixbuild/build/lease_desk.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/store/store.hpp>

#include <atomic>
#include <cstdint>

namespace nixbuild::server {

/// Tells store and scheduler what accounts may have, and the scheduler what they have had in the
/// running month. Thread safe; the calls ask the database and may block.
class QuotaDesk {
public:
  /// All of them outlive it.
  QuotaDesk(store::Store& store,
            const AccountDesk& accounts,
            build::LeaseDesk& leases,
            const Clock& clock)
      : store_(store), accounts_(accounts), leases_(leases), clock_(clock) {}

  /// Of every account, with the cpu time of the month: before anything is built or uploaded, so
  /// that builds that are taken up from an earlier daemon count, too.
  void tell_all();
  /// Of one account.
  void apply(store::AccountId account, const AccountQuotas& quotas);
  /// Of one key of it, by its number.
  void apply_key(store::AccountId account, std::int64_t key, const SessionSettings& settings);
  /// What every account's builds have taken in this month (UTC).
  void count_cpu_time();
  /// A month has begun since the cpu time was counted. Does not block.
  [[nodiscard]] bool month_is_over() const;

private:
  [[nodiscard]] std::int64_t now_us() const;

  store::Store& store_;
  const AccountDesk& accounts_;
  build::LeaseDesk& leases_;
  const Clock& clock_;
  std::atomic<std::int64_t> month_us_{0}; ///< its begin
};

} // namespace nixbuild::server
