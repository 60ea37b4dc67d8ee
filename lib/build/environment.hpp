#pragma once

#include "derivation_options.hpp"

#include <nixbuild/build/builder.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/sandbox/guest_job.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// What a builder process finds: its variables, and the files beside them.
namespace nixbuild::build {

/// Texts that stand for paths which are known only when the build begins, and those paths. Each
/// text is long and random: none is a part of another.
using Rewrites = std::vector<std::pair<std::string, std::string>>;

/// The placeholders of the derivation's own outputs. Source: protocol facts 4.10.
[[nodiscard]] Rewrites placeholder_rewrites(const model::StoreDir& dir,
                                            const std::vector<sandbox::GuestOutput>& outputs);
[[nodiscard]] std::string rewritten(std::string text, const Rewrites& rewrites);

/// What the environment has beside the derivation's own.
struct Surroundings {
  const model::StoreDir& dir;
  unsigned build_cores = 1;
  /// Values of impure variables; null: none has one.
  const std::map<std::string, std::string>* impure = nullptr;
};

/// Arguments and environment of the builder process and the files of `passAsFile`, complete and
/// sorted; `job.outputs` are set already. Source: protocol facts 5.1. Throws BuildFailure for what
/// is not offered.
void fill_environment(sandbox::GuestJob& job,
                      const BuildRequest& request,
                      const DerivationOptions& options,
                      const Surroundings& surroundings,
                      const Rewrites& rewrites);

/// The arguments of nixbuild-builtin, in place of the derivation's: what the server's settings say.
/// `network` is null for a build that has none.
void set_up_builtin(sandbox::GuestJob& job, const BuildNetwork* network);

/// A path of an exported references graph.
struct GraphPath {
  model::PathInfo info;
  std::uint64_t closure_size = 0; ///< NAR bytes of everything reachable from it

  bool operator==(const GraphPath&) const = default;
};

/// `.attrs.json` and `.attrs.sh`, to the letter. `attributes` is the text of `__json`. Source:
/// protocol facts 5.6. Throws BuildFailure as parse_attributes.
void add_structured_files(sandbox::GuestJob& job,
                          const model::StoreDir& dir,
                          std::string_view attributes,
                          const std::map<std::string, std::vector<GraphPath>>& graphs,
                          const Rewrites& rewrites);

} // namespace nixbuild::build
