#pragma once

#include <nixbuild/store/metadata_db.hpp>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>

namespace nixbuild::store {

/// How many NAR bytes accounts may have, and what they have. An account without a limit costs
/// nothing. What is used is asked once, then counted along; the count may be too high (paths were
/// removed), so that it is asked again before anything is refused. Thread safe; may block.
class Room {
public:
  explicit Room(MetadataDb& db) : db_(db) {}

  void set_limit(AccountId account, std::optional<std::uint64_t> bytes);
  /// Error `store.account-full` (Denied) when `bytes` more do not fit.
  void expect(AccountId account, std::uint64_t bytes);
  /// What still fits; absent without a limit.
  [[nodiscard]] std::optional<std::uint64_t> left(AccountId account);

  /// Room that is taken while paths are being registered: two registrations at once cannot both
  /// have the last of it.
  class Taken {
  public:
    /// For those of `infos` that are not valid yet. Error as `expect`.
    Taken(Room& room, AccountId account, std::span<const model::PathInfo> infos);
    ~Taken();
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;

    /// They are registered.
    void keep() noexcept { kept_ = true; }

  private:
    Room& room_;
    AccountId account_;
    std::uint64_t bytes_ = 0;
    bool kept_ = false;
  };

private:
  struct Holding {
    std::optional<std::uint64_t> limit;
    std::optional<std::uint64_t> used; ///< registered; never too low
    std::uint64_t taken = 0;           ///< by registrations that are not over
  };

  [[nodiscard]] bool limited(AccountId account);
  /// As `expect`, with `mutex_` held.
  void expect_locked(AccountId account, Holding& holding, std::uint64_t bytes);

  MetadataDb& db_;
  std::mutex mutex_;
  std::map<AccountId, Holding> holdings_;
};

} // namespace nixbuild::store
