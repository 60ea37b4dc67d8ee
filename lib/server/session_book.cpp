#include "session_book.hpp"

#include "admin_text.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

namespace nixbuild::server {

SessionBook::Place& SessionBook::Place::operator=(Place&& other) noexcept {
  std::swap(book_, other.book_);
  std::swap(account_, other.account_);
  std::swap(key_, other.key_);
  return *this;
}

SessionBook::Place::~Place() {
  if (book_) {
    book_->leave(account_, key_);
  }
}

SessionBook::Place SessionBook::enter(const Handoff& handoff) {
  Place place;
  if (handoff.kind == HandoffKind::Admin && !handoff.limited) {
    return place;
  }
  place.account_ = handoff.account;
  place.key_ = handoff.key;
  const std::lock_guard lock(mutex_);
  const auto of_account = accounts_.find(handoff.account);
  if (limits_.account > 0 && of_account != accounts_.end() &&
      of_account->second >= limits_.account) {
    throw Error(Reaction::Busy,
                "session.too-many",
                fmt::format("account '{}' has {} sessions open already, as many as it may have "
                            "(sessions.most-of-account)",
                            printable(handoff.account),
                            limits_.account));
  }
  const std::pair<std::string, std::int64_t> key(handoff.account, handoff.key);
  const auto of_key = keys_.find(key);
  if (handoff.key != 0 && limits_.key > 0 && of_key != keys_.end() &&
      of_key->second >= limits_.key) {
    throw Error(Reaction::Busy,
                "session.too-many",
                fmt::format("key {} has {} sessions open already, as many as it may have "
                            "(sessions.most-of-key)",
                            handoff.key,
                            limits_.key));
  }
  ++accounts_[handoff.account];
  if (handoff.key != 0) {
    ++keys_[key];
  }
  place.book_.reset(this);
  return place;
}

void SessionBook::leave(const std::string& account, std::int64_t key) noexcept {
  const std::lock_guard lock(mutex_);
  const auto of_account = accounts_.find(account);
  if (of_account != accounts_.end() && --of_account->second == 0) {
    accounts_.erase(of_account);
  }
  const auto of_key = keys_.find({account, key});
  if (of_key != keys_.end() && --of_key->second == 0) {
    keys_.erase(of_key);
  }
}

std::size_t SessionBook::open(const std::string& account) const {
  const std::lock_guard lock(mutex_);
  const auto found = accounts_.find(account);
  return found == accounts_.end() ? 0 : found->second;
}

} // namespace nixbuild::server
