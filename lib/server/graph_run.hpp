#pragma once

#include "build_graph.hpp"
#include "build_watch.hpp"

#include <nixbuild/base/error.hpp>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::server {

/// Told of one build of a graph.
class BuildListener : public LogListener {
public:
  virtual aio::Task<void> begin() = 0;
  virtual aio::Task<void> end(const model::BuildResult& result) = 0;
  /// After the end of a failed build: what its error tells beside the reason. `derivation`:
  /// printed, as the build's record has it; empty: for somebody who cannot ask for the log.
  [[nodiscard]] virtual std::string explanation(std::string_view derivation) const = 0;
  /// The same for a build that no reply will tell of: says at once what is not seen otherwise.
  virtual aio::Task<void> say_failure(std::string text) = 0;
};

/// What is said to a client that has said `max-jobs = 0`.
[[nodiscard]] Error builds_nothing();

struct GraphOrder {
  model::BuildOptions options;
  std::shared_ptr<bool> emulation_told; ///< see BuildAsker
  bool check = false;                   ///< targets that are valid are built again and compared
  bool may_build = true;   ///< false: error `worker.max-jobs` as soon as something has to be built
  bool keep_going = false; ///< after a failure, go on with what does not need the failed one
  /// Makes the listener of one derivation's build.
  std::function<std::unique_ptr<BuildListener>(const model::StorePath&)> listen;
};

/// What became of one target.
struct TargetResult {
  protocol::DerivedPath target;
  model::BuildResult result;
};

/// Builds the targets and all that they need: ready derivations in parallel, those first that most
/// waits behind. Equal builds of other askers are shared. Without `keep_going` the first failure
/// ends the rest. Results stand in the order of the targets, without those that such an end left
/// alone; a failure is a result. `lease` gets every path of the graph. Errors: those of
/// load_build_graph, `session.client-gone`, and faults of this machine. On an error the builds that
/// still run are left within a second.
aio::Task<std::vector<TargetResult>> build_targets(const SessionParts& parts,
                                                   const SessionCaller& caller,
                                                   store::Lease& lease,
                                                   std::vector<protocol::DerivedPath> targets,
                                                   GraphOrder order,
                                                   std::shared_ptr<HangUpWatch> client);

/// Builds that one request keeps going at the same time; what may really run at once the scheduler
/// decides.
inline constexpr std::size_t kBuildsAtOnce = 64;

} // namespace nixbuild::server
