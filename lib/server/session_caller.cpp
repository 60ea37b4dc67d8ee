#include "session_times.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/session_caller.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

void SessionCaller::expect(Permission permission, std::string_view what) const {
  const bool reads = permission == Permission::StoreRead || permission == Permission::BuildRead;
  if (!reads && !write) {
    throw Error(Reaction::Denied,
                "session.read-only",
                fmt::format("{} is refused: this session may not write", what));
  }
  permissions.expect(permission, what);
}

build::BuildPolicy policy_of(const BuildSettings& settings) {
  build::BuildPolicy policy;
  if (!settings.grace) {
    policy.keep = build::KeepRunning::Keep;
  } else if (settings.grace->count() > 0) {
    policy.keep = build::KeepRunning::Grace;
    policy.grace = *settings.grace;
  }
  policy.reuse_failures = settings.reuse_failures;
  policy.reuse_timeouts = settings.reuse_timeouts;
  policy.keep_failed = settings.keep_failed;
  policy.share_results = settings.share_results;
  policy.max_restarts = settings.max_restarts;
  policy.max_memory_bytes = settings.max_memory_bytes.value_or(0);
  return policy;
}

build::BuildRequest SessionCaller::order(const model::StorePath& path,
                                         model::BasicDerivation derivation,
                                         const model::BuildOptions& options) const {
  const auto chosen = settings.for_derivation(derivation, options);
  build::BuildRequest request{account, path, std::move(derivation), options, {}, {}};
  request.options.timeout = chosen.timeout;
  request.options.max_silent_time = chosen.max_silent_time;
  request.options.max_log_bytes = chosen.max_log_bytes;
  request.policy = policy_of(chosen);
  request.self_references = self_references;
  if (times != nullptr) {
    request.session = times->before_build();
  }
  auto& placement = request.placement;
  placement.key = key;
  for (const auto& [name, value] : chosen.tags) {
    placement.tags.insert(name + ":" + value);
  }
  placement.priority = chosen.priority;
  placement.interactive = chosen.interactive;
  if (chosen.min_cpu > 1) {
    placement.min_cpus = chosen.min_cpu;
  }
  placement.max_cpus = chosen.max_cpu;
  placement.default_cpus = chosen.default_cpu;
  if (chosen.min_memory_bytes > 0) {
    placement.min_memory_bytes = chosen.min_memory_bytes;
  }
  placement.default_memory_per_cpu_bytes = chosen.default_memory_per_cpu_bytes;
  return request;
}

} // namespace nixbuild::server
