#pragma once

#include <nixbuild/server/handoff.hpp>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace nixbuild::server {

/// How many sessions each account and each key has open: nobody takes the descriptors and the
/// memory that others need. The operator's own commands are not counted. Thread safe.
class SessionBook {
public:
  /// 0: any number.
  struct Limits {
    std::size_t account = 0;
    std::size_t key = 0;
  };

  explicit SessionBook(Limits limits) : limits_(limits) {}

  /// A session's place, while it lives.
  class Place {
  public:
    Place() = default;
    Place(Place&&) noexcept = default;
    Place& operator=(Place&& other) noexcept;
    ~Place();

  private:
    friend class SessionBook;

    struct Nothing {
      void operator()(SessionBook*) const noexcept {}
    };

    std::unique_ptr<SessionBook, Nothing> book_; ///< null: not counted
    std::string account_;
    std::int64_t key_ = 0;
  };

  /// Errors: `session.too-many` (Busy) naming account or key and the limit. The book outlives the
  /// place.
  [[nodiscard]] Place enter(const Handoff& handoff);
  [[nodiscard]] std::size_t open(const std::string& account) const;

private:
  void leave(const std::string& account, std::int64_t key) noexcept;

  Limits limits_;
  mutable std::mutex mutex_;
  std::map<std::string, std::size_t> accounts_;
  std::map<std::pair<std::string, std::int64_t>, std::size_t> keys_;
};

} // namespace nixbuild::server
