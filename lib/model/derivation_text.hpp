#pragma once

#include <nixbuild/model/derivation.hpp>

#include <map>
#include <set>
#include <string>

namespace nixbuild::model::detail {

/// Input derivations as they stand in the text: key (a path, or a hash) → output names.
using PrintedInputs = std::map<std::string, std::set<std::string>>;

/// The ATerm with these inputs. `masked`: output paths and the variables named like outputs are
/// empty. Source: protocol facts 4.5, 4.6.
[[nodiscard]] std::string print_aterm(const StoreDir& dir,
                                      const BasicDerivation& derivation,
                                      const PrintedInputs& inputs,
                                      bool masked);

} // namespace nixbuild::model::detail
