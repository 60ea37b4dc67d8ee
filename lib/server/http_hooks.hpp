#pragma once

#include "host_faults.hpp"

#include <nixbuild/build/lease_desk.hpp>
#include <nixbuild/build/shared_builds.hpp>
#include <nixbuild/sandbox/executor.hpp>
#include <nixbuild/server/accounts.hpp>
#include <nixbuild/server/http.hpp>
#include <nixbuild/store/metadata_db.hpp>

namespace nixbuild::server {

/// What a daemon's HTTP server reaches of it. All of it outlives the hooks.
struct HttpReach {
  store::MetadataDb& db;
  AccountDesk& accounts;
  build::SharedBuilds& builds;
  build::LeaseDesk& leases;
  const HostFaults& faults;
  const sandbox::Executor& executor;
};

/// The hooks block, as the HTTP server expects. Those that change a setting fail with
/// `settings.unknown`, `settings.level`, `settings.value`, `settings.operator`.
[[nodiscard]] HttpHooks http_hooks(const HttpReach& reach);

} // namespace nixbuild::server
