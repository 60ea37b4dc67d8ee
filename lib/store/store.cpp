#include "store_state.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <shared_mutex>
#include <utility>

namespace nixbuild::store {

Store::Store(MetadataDb& db, SegmentStore& segments, const Clock& clock, model::StoreDir dir)
    : state_(std::make_unique<State>(db, segments, clock, std::move(dir))) {}

Store::~Store() = default;

const model::StoreDir& Store::dir() const noexcept {
  return state_->dir;
}

MetadataDb& Store::db() noexcept {
  return state_->db;
}

void Store::set_max_bytes(AccountId account, std::optional<std::uint64_t> bytes) {
  state_->room.set_limit(account, bytes);
}

namespace {

/// The contents that a commit is about to name: kept from collection until the names are there.
class Claims {
public:
  Claims(StoreState& state, std::span<const model::PathInfo> infos) : state_(state) {
    const std::shared_lock shared(state_.segment_gate);
    for (const auto& info : infos) {
      state_.claim(info.nar_hash);
      hashes_.push_back(info.nar_hash);
    }
  }

  ~Claims() {
    for (const auto& hash : hashes_) {
      state_.disclaim(hash);
    }
  }

  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;

  [[nodiscard]] std::span<const Hash> hashes() const noexcept { return hashes_; }

private:
  StoreState& state_;
  std::vector<Hash> hashes_;
};

/// Makes contents durable, then has `write` name them in the database.
void register_durably(StoreState& state,
                      AccountId account,
                      std::span<const model::PathInfo> infos,
                      std::span<const Hash> hashes,
                      const std::function<void()>& write) {
  state.segments.sync(hashes);
  for (const auto& info : infos) {
    if (!state.segments.contains(info.nar_hash)) {
      throw Error(Reaction::Reject,
                  "store.missing-segment",
                  fmt::format("the contents of path '{}' (sha256:{}) are not in the store",
                              info.path.base_name(),
                              nix32_encode(info.nar_hash.bytes())));
    }
  }
  const std::shared_lock shared(state.name_gate);
  for (const auto& info : infos) {
    state.touch(account, info);
  }
  write();
}

void commit_with(StoreState& state,
                 AccountId account,
                 std::span<const model::PathInfo> infos,
                 const std::function<void()>& write) {
  std::exception_ptr error;
  {
    const Claims claims(state, infos);
    try {
      expect_outputs(state, account, infos);
      Room::Taken room(state.room, account, infos);
      register_durably(state, account, infos, claims.hashes(), write);
      room.keep();
    } catch (...) {
      error = std::current_exception();
    }
    for (const auto& info : infos) {
      state.unseal(account, info);
    }
  }
  if (error) {
    // What nobody else names goes at once.
    for (const auto& info : infos) {
      remove_segment_if_unused(state, info.nar_hash);
    }
    std::rethrow_exception(error);
  }
}

} // namespace

void Store::commit(AccountId account, std::span<const model::PathInfo> infos) {
  commit_with(*state_, account, infos, [&] { state_->db.register_paths(account, infos); });
}

bool Store::end_build(const BuildRecord& record,
                      std::span<const model::PathInfo> outputs,
                      const BuildOutcome* outcome) {
  bool ended = false;
  commit_with(*state_, record.account, outputs, [&] {
    ended = state_->db.end_build(record, outputs, outcome);
  });
  return ended;
}

} // namespace nixbuild::store
