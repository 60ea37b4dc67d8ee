#include "derivation_options.hpp"
#include "steps.hpp"

#include <set>
#include <string_view>

namespace nixbuild::build {

namespace {

void put(Hasher& hasher, std::uint64_t number) {
  std::array<std::uint8_t, 8> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::uint8_t>(number >> (8 * i) & 0xff);
  }
  hasher.update(bytes);
}

/// With its length before it, so that no two lists of texts give the same bytes.
void put(Hasher& hasher, std::string_view text) {
  put(hasher, std::uint64_t{text.size()});
  hasher.update(bytes_of(text));
}

/// Whether the builder is told of paths that are not among its inputs: the outputs of derivations
/// in an exported references graph.
bool looks_beyond(const model::BasicDerivation& derivation, const model::StorePaths& closure) {
  const auto& environment = derivation.environment;
  return (environment.contains("exportReferencesGraph") || environment.contains("__json")) &&
         std::any_of(
             closure.begin(), closure.end(), [](const auto& path) { return path.is_derivation(); });
}

/// Whether the builder may ask for more than its inputs.
bool talks_to_store(const BuildRequest& request) {
  try {
    return read_options(request.derivation, request.derivation_path.base_name()).talks_to_store();
  } catch (const BuildFailure&) {
    return false; // it will be refused
  }
}

} // namespace

std::optional<Hash> build_key(store::MetadataDb& db,
                              const model::StoreDir& dir,
                              const BuildRequest& request,
                              const model::StorePaths& closure) {
  Hasher hasher(HashAlgorithm::Sha256);
  put(hasher, "nixbuild build key 2");
  put(hasher, dir.text());
  put(hasher, derivation_text(dir, request.derivation));
  if (made_of_contents(model::derivation_kind(request.derivation))) {
    // The builder sees a name made of the derivation's, and the outputs' names depend on the Nix.
    put(hasher, request.derivation_path.base_name());
    put(hasher, static_cast<std::uint64_t>(request.self_references));
  }
  const bool with_database = request.policy && request.policy->input_database;
  if (with_database) {
    put(hasher, "with a database");
  }
  put(hasher, std::uint64_t{closure.size()});
  std::size_t found = 0;
  auto add = [&](const model::PathInfo& info) {
    ++found;
    put(hasher, info.path.base_name());
    hasher.update(info.nar_hash.bytes());
    put(hasher, info.nar_size);
    put(hasher, std::uint64_t{info.references.size()});
    for (const auto& reference : info.references) {
      put(hasher, reference.base_name());
    }
    put(hasher, info.content_address);
    if (with_database) {
      put(hasher, info.deriver ? info.deriver->base_name() : std::string());
    }
  };
  db.path_infos(request.account, closure, add);
  if (looks_beyond(request.derivation, closure) || talks_to_store(request)) {
    put(hasher, "of account");
    put(hasher, static_cast<std::uint64_t>(request.account.value));
  }
  // A path that went away since the closure was taken: there is nothing to compare.
  return found == closure.size() ? std::optional(hasher.finish()) : std::nullopt;
}

std::shared_ptr<BuildInputs> resolve(store::Store& store, const BuildRequest& request) {
  auto inputs = std::make_shared<BuildInputs>();
  inputs->lease = store.lease(request.account);
  for (const auto& [name, output] : request.derivation.outputs) {
    if (output.path) {
      inputs->lease.add(*output.path);
    }
  }
  const auto& sources = request.derivation.input_sources;
  inputs->lease.add(sources);
  auto& db = store.db();
  const auto valid = db.valid_paths(request.account, sources);
  const std::set<model::StorePath> known(valid.begin(), valid.end());
  for (const auto& path : sources) {
    if (!known.contains(path)) {
      inputs->missing = path;
      return inputs;
    }
  }
  inputs->closure = db.closure(request.account, sources);
  inputs->lease.add(inputs->closure);
  if (model::derivation_kind(request.derivation) != model::OutputKind::Impure) {
    inputs->key = build_key(db, store.dir(), request, inputs->closure);
  }
  return inputs;
}

Hash share_key(const Hash& key, const BuildRequest& request) {
  Hasher hasher(HashAlgorithm::Sha256);
  hasher.update(key.bytes());
  put(hasher, static_cast<std::uint64_t>(request.account.value));
  put(hasher, request.derivation_path.base_name());
  put(hasher, static_cast<std::uint64_t>(request.options.timeout.count()));
  put(hasher, static_cast<std::uint64_t>(request.options.max_silent_time.count()));
  put(hasher, request.options.max_log_bytes.value_or(0));
  return hasher.finish();
}

} // namespace nixbuild::build
