#include "steps.hpp"

#include <nixbuild/model/hash_text.hpp>

namespace nixbuild::build {

bool made_of_contents(model::OutputKind kind) noexcept {
  return kind == model::OutputKind::Floating || kind == model::OutputKind::Impure;
}

bool has_network(model::OutputKind kind) noexcept {
  return kind == model::OutputKind::Fixed || kind == model::OutputKind::Impure;
}

namespace {

/// Leased before it is looked at, so that what is found valid stays so.
bool take(store::MetadataDb& db,
          const BuildRequest& request,
          store::Lease& lease,
          model::Realisation& output) {
  lease.add(output.path);
  const auto info = db.path_info(request.account, output.path);
  if (info && output.signatures.empty()) {
    output.signatures = info->signatures;
  }
  return info.has_value();
}

} // namespace

std::optional<std::map<std::string, model::Realisation>>
known_outputs(store::Store& store, const BuildRequest& request, store::Lease& lease) {
  const auto kind = model::derivation_kind(request.derivation);
  if (kind == model::OutputKind::Deferred || kind == model::OutputKind::Impure) {
    return std::nullopt;
  }
  auto& db = store.db();
  std::map<std::string, Hash> hashes;
  if (kind == model::OutputKind::Floating) {
    hashes = model::realisation_hashes(store.dir(), request.derivation);
  }
  std::map<std::string, model::Realisation> known;
  for (const auto& [name, output] : request.derivation.outputs) {
    std::optional<model::Realisation> found;
    if (output.path) {
      found.emplace(model::Realisation{*output.path, {}});
    } else {
      const store::RealisationKey key{
          model::hash_hex(hashes.at(name)), name, request.self_references};
      found = db.realisation(request.account, key);
    }
    if (!found || !take(db, request, lease, *found)) {
      return std::nullopt;
    }
    known.emplace(name, std::move(*found));
  }
  return known;
}

} // namespace nixbuild::build
