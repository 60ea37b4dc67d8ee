#pragma once

#include <nixbuild/store/metadata_db.hpp>

#include <cstdint>
#include <map>
#include <string>

namespace nixbuild::server {

/// What builds have taken.
struct Spent {
  std::uint64_t builds = 0;
  std::uint64_t cpu_us = 0;
  double memory_gib_seconds = 0; ///< the machines' memory times their duration

  void add(const Spent& other);
};

/// Ended, had a machine, and the fault was not ours.
[[nodiscard]] bool is_billable(const store::BuildRecord& record);
/// By one build that is billable.
[[nodiscard]] Spent spent_by(const store::BuildRecord& record);

struct AccountUsage {
  Spent sum;
  std::map<std::string, Spent> days; ///< `2026-01-31`, the day (UTC) of the end
  std::map<std::string, Spent> keys; ///< number of the SSH key that asked; empty: none
  std::map<std::string, Spent> tags; ///< `NAME:VALUE`; a build counts for each of its tags
};

/// Of the account's newest 100,000 builds: those that ended at `from_us` or later and before
/// `to_us`, microseconds since 1970. May block.
[[nodiscard]] AccountUsage
usage_of(store::MetadataDb& db, store::AccountId account, std::int64_t from_us, std::int64_t to_us);

} // namespace nixbuild::server
