#pragma once

#include <nixbuild/aio/blocking_pool.hpp>
#include <nixbuild/aio/event.hpp>
#include <nixbuild/aio/task.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

namespace nixbuild::server {

/// Work that takes as long as an account's store is large: verifying, collecting, counting. It has
/// threads of its own, so that logins and questions do not wait behind it, and an account has one
/// piece of it under way at a time, so that others' does not wait for long either. Thread safe.
class LongWork {
public:
  explicit LongWork(std::size_t threads) : pool(threads) {}

  /// An account's turn, while it lives.
  class Turn {
  public:
    Turn(Turn&&) noexcept = default;
    Turn& operator=(Turn&&) = delete;
    ~Turn();

  private:
    friend class LongWork;

    Turn(LongWork& work, store::AccountId account) : work_(&work), account_(account) {}

    struct Nothing {
      void operator()(LongWork*) const noexcept {}
    };

    std::unique_ptr<LongWork, Nothing> work_; ///< null: moved away
    store::AccountId account_;
  };

  /// Waits until no other long work of the account is under way. `still_wanted` is asked about once
  /// a second and throws when nobody waits any more; may be empty. The object outlives the turn.
  aio::Task<Turn> turn(store::AccountId account, std::function<void()> still_wanted);

  aio::BlockingPool pool;

private:
  std::mutex mutex_;
  std::set<store::AccountId> under_way_;
  aio::Event changed_;
};

} // namespace nixbuild::server
