#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/clock.hpp>
#include <nixbuild/store/log_store.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <chrono>
#include <cstddef>

/// What builds leave behind goes after a while.
namespace nixbuild::server {

/// Zero: for ever.
struct Retention {
  std::chrono::days builds{0};
  std::chrono::days logs{0};

  bool operator==(const Retention&) const = default;
};

struct Forgotten {
  std::size_t builds = 0;
  std::size_t logs = 0;
};

/// Removes what is older; a log goes with its build at the latest. In small steps, so that nobody
/// waits behind it. Blocks. Errors: those of the ports.
NIXBUILD_API Forgotten forget_old(store::MetadataDb& db,
                                  store::LogStore& logs,
                                  const Retention& retention,
                                  WallTime now);

} // namespace nixbuild::server
