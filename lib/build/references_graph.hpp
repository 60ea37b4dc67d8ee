#pragma once

#include "derivation_options.hpp"
#include "environment.hpp"

#include <nixbuild/store/store.hpp>

#include <map>
#include <string>
#include <string_view>
#include <vector>

/// What reaches what among valid paths and outputs that are about to be.
namespace nixbuild::build {

/// `exportReferencesGraph`: for each of its names the closure of its paths, with the closures of
/// the outputs of derivations in it, sorted. `closure` is the build's input closure, sorted.
/// Blocking. Throws BuildFailure (InputRejected) for a path outside it, and for graphs whose
/// closure sizes would cost too much to tell. Errors: those of MetadataDb::closure.
[[nodiscard]] std::map<std::string, std::vector<GraphPath>>
export_references(store::Store& store,
                  store::AccountId account,
                  const DerivationOptions& options,
                  const model::StorePaths& closure,
                  std::string_view derivation);

/// The graphs as files of a build without structured attributes.
void add_graph_files(sandbox::GuestJob& job,
                     const model::StoreDir& dir,
                     const std::map<std::string, std::vector<GraphPath>>& graphs);

/// Checks what was built against what the derivation allows. `outputs` are not registered yet and
/// stand beside their `names`. Blocking. Throws BuildFailure (OutputRejected) in Nix's words.
void check_output_rules(store::Store& store,
                        store::AccountId account,
                        const DerivationOptions& options,
                        const std::vector<std::string>& names,
                        const std::vector<model::PathInfo>& outputs);

} // namespace nixbuild::build
