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
  policy.input_database = settings.input_database;
  policy.build_twice = settings.build_twice;
  policy.share_results = settings.share_results;
  policy.max_restarts = settings.max_restarts;
  policy.max_memory_bytes = settings.max_memory_bytes.value_or(0);
  policy.disk_bytes = settings.disk_bytes;
  return policy;
}

namespace {

/// Builders that wait for each other, each with a machine.
constexpr std::size_t kMostWaiting = 4;

/// A builder cannot wait for itself.
void expect_progress(const build::BuildRequest& request) {
  const auto& waiting = request.waiting;
  if (std::find(waiting.begin(), waiting.end(), request.derivation_path) != waiting.end()) {
    throw Error(Reaction::Reject,
                "build.recursive",
                fmt::format("the builder of '{}' asks for its own build",
                            request.derivation_path.base_name()));
  }
  if (waiting.size() > kMostWaiting) {
    throw Error(Reaction::Reject,
                "build.recursive",
                fmt::format("'{}' is asked for from inside of {} builds; at most {} may wait for "
                            "each other",
                            request.derivation_path.base_name(),
                            waiting.size(),
                            kMostWaiting));
  }
}

} // namespace

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
  if (inside != nullptr) {
    request.waiting = inside->derivations();
    expect_progress(request);
  }
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
