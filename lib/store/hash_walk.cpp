#include "hash_walk.hpp"

#include "derivation_text.hpp"
#include "metadata_rules.hpp"
#include "store_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/store/derivation_hashes.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace nixbuild::store {

namespace {

/// Files that only call themselves derivations, whose hashes cannot be kept: so many are looked at
/// for one question.
constexpr std::size_t kMostUncertain = 10'000;

bool is_named_by(const model::StoreDir& dir, const model::PathInfo& info, std::string_view text) {
  if (info.content_address.starts_with("text:")) {
    return true; // looked at when it came in
  }
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of(text));
  return model::make_text_path(dir, info.path.name(), hash, info.references) == info.path;
}

/// A derivation that contradicts itself, as opposed to one about which too little is known.
bool is_wrong(const Error& error) {
  return error.code() == "derivation.paths" || error.code() == "derivation.deferred";
}

} // namespace

std::optional<model::HashModulo> KnownHashes::find(const model::StorePath& path) const {
  const std::lock_guard lock(mutex_);
  const auto found = known_.find(path);
  return found == known_.end() ? std::nullopt : std::optional(found->second);
}

void KnownHashes::add(const model::StorePath& path, const model::HashModulo& modulo) {
  const std::lock_guard lock(mutex_);
  if (known_.size() >= kMostHashes) {
    known_.clear();
  }
  known_.try_emplace(path, modulo);
}

HashWalk::HashWalk(StoreState& state, AccountId account, std::span<const model::PathInfo> arriving)
    : state_(state), account_(account) {
  for (const auto& info : arriving) {
    if (info.path.is_derivation()) {
      arriving_.emplace(info.path, &info);
    }
  }
}

HashWalk::Loaded HashWalk::load(const model::StorePath& path) const {
  std::optional<model::PathInfo> info;
  if (const auto found = arriving_.find(path); found != arriving_.end()) {
    info = *found->second;
  } else {
    info = state_.db.path_info(account_, path);
  }
  if (!info) {
    throw_invalid_path(path);
  }
  const auto text = derivation_text(state_.segments, state_.dir, *info);
  return {model::parse_derivation(state_.dir, text), is_named_by(state_.dir, *info, text)};
}

const HashWalk::Known* HashWalk::find(const model::StorePath& path) {
  auto found = known_.find(path);
  if (found == known_.end()) {
    if (auto modulo = state_.hashes.find(path)) {
      found = known_.emplace(path, Known{std::move(*modulo), true}).first;
    }
  }
  return found != known_.end() && found->second ? &*found->second : nullptr;
}

void HashWalk::enter(std::vector<Step>& steps, const model::StorePath& path) {
  if (known_.size() >= kMostHashes || uncertain_ >= kMostUncertain) {
    throw Error(Reaction::Reject,
                "build.graph-limit",
                fmt::format("the request needs more than {} derivations to be looked at",
                            std::min(known_.size(), kMostHashes)));
  }
  if (!known_.emplace(path, std::nullopt).second) {
    throw Error(Reaction::Reject,
                "build.cycle",
                fmt::format("derivation '{}' depends on itself", state_.dir.print(path)));
  }
  steps.push_back({path, load(path)});
}

void HashWalk::conclude(const model::StorePath& path, const Loaded& loaded) {
  Known known;
  known.certain = loaded.named_by_contents;
  const auto hash_of_input = [this, &known](const model::StorePath& input) {
    const auto& found = *known_.at(input);
    known.certain = known.certain && found.certain;
    return found.modulo;
  };
  known.modulo = model::hash_modulo(state_.dir, loaded.derivation, false, hash_of_input);
  if (known.certain) {
    state_.hashes.add(path, known.modulo);
  } else {
    ++uncertain_;
  }
  known_[path] = std::move(known);
}

/// Depth first with a stack of its own: a chain of derivations may be as long as a client likes.
void HashWalk::descend(const model::StorePath& path) {
  std::vector<Step> steps;
  enter(steps, path);
  while (!steps.empty()) {
    const auto& derivation = steps.back().loaded.derivation;
    const auto& inputs = derivation.input_derivations;
    // What has a fixed output is known by it, whatever it is made from.
    const auto missing =
        model::derivation_kind(derivation) == model::OutputKind::Fixed
            ? inputs.end()
            : std::find_if(inputs.begin(), inputs.end(), [this](const auto& input) {
                return find(input.first) == nullptr;
              });
    if (missing == inputs.end()) {
      conclude(steps.back().path, steps.back().loaded);
      steps.pop_back();
    } else {
      const auto next = missing->first;
      enter(steps, next);
    }
  }
}

model::HashModulo HashWalk::of(const model::StorePath& path) {
  if (const auto* known = find(path)) {
    return known->modulo;
  }
  try {
    descend(path);
  } catch (...) {
    std::erase_if(known_, [](const auto& entry) { return !entry.second; });
    throw;
  }
  return known_.at(path)->modulo;
}

void HashWalk::learn(const model::StorePath& path, const Loaded& loaded) {
  if (find(path) == nullptr) {
    conclude(path, loaded);
  }
}

namespace {

/// Who may name a path as a reference knows of it already: of others nobody learns anything here.
bool refers_to_inputs(const model::PathInfo& info, const model::Derivation& derivation) {
  const auto& inputs = derivation.input_derivations;
  return std::all_of(inputs.begin(), inputs.end(), [&info](const auto& input) {
    return std::find(info.references.begin(), info.references.end(), input.first) !=
           info.references.end();
  });
}

void expect_output_of(HashWalk& walk, const model::StoreDir& dir, const model::PathInfo& info) {
  const auto& path = info.path;
  try {
    const auto loaded = walk.load(path);
    if (!refers_to_inputs(info, loaded.derivation)) {
      return;
    }
    const auto hash_of_input = [&walk](const model::StorePath& input) {
      return walk.of(input);
    };
    static_cast<void>(model::outputs_follow(dir, path, loaded.derivation, hash_of_input));
    if (model::derivation_kind(loaded.derivation) == model::OutputKind::InputAddressed) {
      walk.learn(path, loaded);
    }
  } catch (const Error& error) {
    if (is_wrong(error)) {
      throw;
    }
  }
}

} // namespace

void expect_outputs(StoreState& state, AccountId account, std::span<const model::PathInfo> infos) {
  std::optional<HashWalk> walk;
  for (const auto& info : infos) {
    if (info.path.is_derivation()) {
      if (!walk) {
        walk.emplace(state, account, infos);
      }
      expect_output_of(*walk, state.dir, info);
    }
  }
}

struct DerivationHashes::State {
  State(StoreState& state, AccountId account) : dir(state.dir), walk(state, account) {}

  const model::StoreDir& dir;
  HashWalk walk;

  model::InputModulo inputs() {
    return [this](const model::StorePath& input) {
      return walk.of(input);
    };
  }
};

DerivationHashes::DerivationHashes(Store& store, AccountId account)
    : state_(std::make_unique<State>(*store.state_, account)) {}

DerivationHashes::~DerivationHashes() = default;

std::map<std::string, Hash> DerivationHashes::names_of(const model::Derivation& derivation) {
  return model::hash_modulo(state_->dir, derivation, true, state_->inputs()).outputs;
}

bool DerivationHashes::expect_paths(const model::StorePath& path,
                                    const model::Derivation& derivation) {
  return model::outputs_follow(state_->dir, path, derivation, state_->inputs());
}

bool DerivationHashes::outputs_follow(const model::StorePath& path,
                                      const model::Derivation& derivation) {
  try {
    return expect_paths(path, derivation);
  } catch (const Error& error) {
    if (is_wrong(error)) {
      throw;
    }
    return false;
  }
}

} // namespace nixbuild::store
