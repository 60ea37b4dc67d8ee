#include "model/derivation_text.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

namespace nixbuild::model {

namespace {

Hash sha256_of(std::string_view text) {
  return hash_of(HashAlgorithm::Sha256, bytes_of(text));
}

/// The same for every derivation that has the fixed output, however it gets it.
Hash fixed_output_hash(const StoreDir& dir, const DerivationOutput& output) {
  return sha256_of(fmt::format("fixed:out:{}:{}:{}",
                               output.method_algorithm,
                               hash_hex(output.fixed_address().hash),
                               dir.print(output.path.value())));
}

HashModulo same_for_all(const BasicDerivation& derivation, const Hash& hash) {
  HashModulo out;
  for (const auto& [name, output] : derivation.outputs) {
    out.outputs.emplace_hint(out.outputs.end(), name, hash);
  }
  return out;
}

/// Replaces one input derivation by its hash; outputs with equal hashes share an entry.
void add_input(detail::PrintedInputs& inputs,
               const StorePath& path,
               const std::set<std::string>& wanted,
               const HashModulo& modulo) {
  if (wanted.empty() && !modulo.outputs.empty()) {
    inputs.try_emplace(hash_hex(modulo.outputs.begin()->second));
  }
  for (const auto& name : wanted) {
    const auto found = modulo.outputs.find(name);
    if (found == modulo.outputs.end()) {
      throw Error(Reaction::Reject,
                  "derivation.outputs",
                  fmt::format("input derivation '{}' has no output '{}'", path.base_name(), name));
    }
    inputs[hash_hex(found->second)].insert(name);
  }
}

} // namespace

HashModulo hash_modulo(const StoreDir& dir,
                       const Derivation& derivation,
                       bool masked,
                       const InputModulo& inputs) {
  const OutputKind kind = derivation_kind(derivation);
  if (kind == OutputKind::Fixed) {
    return same_for_all(derivation, fixed_output_hash(dir, derivation.outputs.begin()->second));
  }
  bool deferred = kind != OutputKind::InputAddressed;
  detail::PrintedInputs printed;
  for (const auto& [path, wanted] : derivation.input_derivations) {
    const HashModulo modulo = inputs(path);
    deferred = deferred || modulo.deferred;
    add_input(printed, path, wanted, modulo);
  }
  auto out =
      same_for_all(derivation, sha256_of(detail::print_aterm(dir, derivation, printed, masked)));
  out.deferred = deferred;
  return out;
}

std::map<std::string, StorePath> input_addressed_paths(const StoreDir& dir,
                                                       std::string_view name,
                                                       const Derivation& derivation,
                                                       const InputModulo& inputs) {
  const OutputKind kind = derivation_kind(derivation);
  if (kind != OutputKind::InputAddressed && kind != OutputKind::Deferred) {
    throw Error(Reaction::Reject,
                "derivation.outputs",
                fmt::format("derivation '{}' is not input-addressed", name));
  }
  // A derivation whose paths are still to be filled in counts as input-addressed here.
  detail::PrintedInputs printed;
  for (const auto& [path, wanted] : derivation.input_derivations) {
    const HashModulo modulo = inputs(path);
    if (modulo.deferred) {
      throw Error(
          Reaction::Reject,
          "derivation.deferred",
          fmt::format("derivation '{}' has no paths before '{}' is built", name, path.base_name()));
    }
    add_input(printed, path, wanted, modulo);
  }
  const Hash hash = sha256_of(detail::print_aterm(dir, derivation, printed, true));
  std::map<std::string, StorePath> out;
  for (const auto& [output, value] : derivation.outputs) {
    out.emplace_hint(
        out.end(),
        output,
        make_store_path(
            dir, fmt::format("output:{}", output), hash, output_path_name(name, output)));
  }
  return out;
}

StorePath
derivation_path(const StoreDir& dir, std::string_view name, const Derivation& derivation) {
  StorePaths references = derivation.input_sources;
  for (const auto& [path, outputs] : derivation.input_derivations) {
    references.push_back(path);
  }
  sort_unique(references);
  return make_text_path(
      dir, fmt::format("{}.drv", name), sha256_of(print_derivation(dir, derivation)), references);
}

std::map<std::string, Hash> realisation_hashes(const StoreDir& dir,
                                               const BasicDerivation& derivation) {
  if (derivation_kind(derivation) == OutputKind::Fixed) {
    const auto& [name, output] = *derivation.outputs.begin();
    return {{name, fixed_output_hash(dir, output)}};
  }
  const Hash hash = sha256_of(detail::print_aterm(dir, derivation, {}, true));
  return same_for_all(derivation, hash).outputs;
}

} // namespace nixbuild::model
