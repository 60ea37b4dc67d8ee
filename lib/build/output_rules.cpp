#include "references_graph.hpp"
#include "steps.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace nixbuild::build {

namespace {

[[noreturn]] void reject_output(std::string message) {
  throw BuildFailure(model::BuildStatus::OutputRejected, std::move(message));
}

/// The outputs of one build, among which references are followed before they are registered.
class OutputClosures {
public:
  OutputClosures(store::Store& store,
                 store::AccountId account,
                 const std::vector<model::PathInfo>& outputs)
      : store_(store), account_(account), outputs_(outputs) {}

  /// Paths, outputs included, sorted.
  [[nodiscard]] model::StorePaths of(const model::PathInfo& output) const {
    model::StorePaths found{output.path};
    model::StorePaths inputs;
    for (std::size_t at = 0; at < found.size(); ++at) {
      for (const auto& reference : output_at(found[at])->references) {
        if (output_at(reference) == nullptr) {
          inputs.push_back(reference);
        } else if (std::find(found.begin(), found.end(), reference) == found.end()) {
          found.push_back(reference);
        }
      }
    }
    const auto rest = store_.db().closure(account_, inputs);
    found.insert(found.end(), rest.begin(), rest.end());
    model::sort_unique(found);
    return found;
  }

  [[nodiscard]] std::uint64_t size_of(const model::StorePaths& paths) const {
    std::uint64_t bytes = 0;
    model::StorePaths inputs;
    for (const auto& path : paths) {
      const auto* output = output_at(path);
      if (output != nullptr) {
        bytes += output->nar_size;
      } else {
        inputs.push_back(path);
      }
    }
    const auto add = [&bytes](const model::PathInfo& info) {
      bytes += info.nar_size;
    };
    store_.db().path_infos(account_, inputs, add);
    return bytes;
  }

private:
  [[nodiscard]] const model::PathInfo* output_at(const model::StorePath& path) const {
    const auto found = std::find_if(
        outputs_.begin(), outputs_.end(), [&](const auto& info) { return info.path == path; });
    return found == outputs_.end() ? nullptr : &*found;
  }

  store::Store& store_;
  store::AccountId account_;
  const std::vector<model::PathInfo>& outputs_;
};

class RuleCheck {
public:
  RuleCheck(const model::StoreDir& dir,
            const std::vector<std::string>& names,
            const std::vector<model::PathInfo>& outputs)
      : dir_(dir), names_(names), outputs_(outputs) {}

  /// `used` are the references or the requisites of `output`, sorted.
  void allow(const model::PathInfo& output,
             const std::optional<Words>& specified,
             const model::StorePaths& used) const {
    if (!specified) {
      return;
    }
    const auto allowed = paths_of(*specified);
    model::StorePaths bad;
    std::set_difference(
        used.begin(), used.end(), allowed.begin(), allowed.end(), std::back_inserter(bad));
    refuse(output, bad);
  }

  void forbid(const model::PathInfo& output,
              const std::optional<Words>& specified,
              const model::StorePaths& used) const {
    if (!specified) {
      return;
    }
    const auto forbidden = paths_of(*specified);
    model::StorePaths bad;
    std::set_intersection(
        used.begin(), used.end(), forbidden.begin(), forbidden.end(), std::back_inserter(bad));
    refuse(output, bad);
  }

private:
  [[nodiscard]] model::StorePaths paths_of(const Words& specified) const {
    model::StorePaths paths;
    for (const auto& word : specified) {
      const auto output = std::find(names_.begin(), names_.end(), word);
      if (output != names_.end()) {
        paths.push_back(outputs_[static_cast<std::size_t>(output - names_.begin())].path);
        continue;
      }
      try {
        paths.push_back(dir_.parse(word));
      } catch (const Error&) {
        reject_output(fmt::format("derivation contains an illegal reference specifier '{}'", word));
      }
    }
    model::sort_unique(paths);
    return paths;
  }

  void refuse(const model::PathInfo& output, const model::StorePaths& bad) const {
    if (bad.empty()) {
      return;
    }
    std::string list;
    for (const auto& path : bad) {
      list += "\n  " + dir_.print(path);
    }
    reject_output(fmt::format("output '{}' is not allowed to refer to the following paths:{}",
                              dir_.print(output.path),
                              list));
  }

  const model::StoreDir& dir_;
  const std::vector<std::string>& names_;
  const std::vector<model::PathInfo>& outputs_;
};

} // namespace

void check_output_rules(store::Store& store,
                        store::AccountId account,
                        const DerivationOptions& options,
                        const std::vector<std::string>& names,
                        const std::vector<model::PathInfo>& outputs) {
  const RuleCheck check(store.dir(), names, outputs);
  const OutputClosures closures(store, account, outputs);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto found = options.rules.find(names[i]);
    if (found == options.rules.end()) {
      continue;
    }
    const auto& rules = found->second;
    const auto& output = outputs[i];
    const auto shown = store.dir().print(output.path);
    if (rules.max_size && output.nar_size > *rules.max_size) {
      reject_output(fmt::format("path '{}' is too large at {} bytes; limit is {} bytes",
                                shown,
                                output.nar_size,
                                *rules.max_size));
    }
    check.allow(output, rules.allowed_references, output.references);
    check.forbid(output, rules.disallowed_references, output.references);
    if (!rules.max_closure_size && !rules.allowed_requisites && !rules.disallowed_requisites) {
      continue;
    }
    auto requisites = closures.of(output);
    if (rules.max_closure_size) {
      const auto bytes = closures.size_of(requisites);
      if (bytes > *rules.max_closure_size) {
        reject_output(
            fmt::format("closure of path '{}' is too large at {} bytes; limit is {} bytes",
                        shown,
                        bytes,
                        *rules.max_closure_size));
      }
    }
    if (rules.ignore_self) {
      std::erase(requisites, output.path);
    }
    check.allow(output, rules.allowed_requisites, requisites);
    check.forbid(output, rules.disallowed_requisites, requisites);
  }
}

} // namespace nixbuild::build
