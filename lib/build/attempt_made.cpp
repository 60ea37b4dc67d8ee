#include "attempt.hpp"
#include "content_digest.hpp"
#include "hash_rewriter.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

/// Outputs whose paths are made of their contents. Most refer neither to themselves nor to each
/// other, and are taken in one pass. Of the others the machine sends the archive again: once to
/// find the name, once to take it with that name in it. Source: protocol facts 5.10.
namespace nixbuild::build {

namespace {

constexpr std::array<char, HashRewriter::kLength> kNoHash{};

} // namespace

model::MethodAlgorithm Attempt::method_of(std::size_t index) const {
  return model::parse_method_algorithm(
      request_.derivation.outputs.at(output_names_[index]).method_algorithm);
}

std::vector<store::StoredRealisation> Attempt::realisations() const {
  std::vector<store::StoredRealisation> made;
  if (kind_ != model::OutputKind::Floating || built_.empty()) {
    return made;
  }
  const auto hashes = model::realisation_hashes(parts_.store.dir(), request_.derivation);
  const bool names_itself = std::any_of(built_.begin(), built_.end(), [](const auto& info) {
    return std::binary_search(info.references.begin(), info.references.end(), info.path);
  });
  std::vector<model::SelfReferences> forms{request_.self_references};
  if (!names_itself) {
    forms = {model::SelfReferences::Plain, model::SelfReferences::WithOffsets};
  }
  for (std::size_t i = 0; i < output_names_.size(); ++i) {
    const auto& name = output_names_[i];
    const auto& hash = hashes.at(name);
    model::Realisation realisation{made_paths_.at(i), {}};
    if (parts_.signing_key != nullptr && proven()) {
      const auto message = model::realisation_fingerprint(hash, name, realisation.path);
      realisation.signatures.push_back(parts_.signing_key->sign(message));
    }
    for (const auto form : forms) {
      made.push_back({{model::hash_hex(hash), name, form}, realisation});
    }
  }
  return made;
}

/// Takes an output as it is, unless it names an output: then its path is not known yet, and nothing
/// is taken. `references` are what it refers to, under the names that the builder saw.
aio::Task<std::optional<model::PathInfo>> Attempt::collect_plain(std::size_t index,
                                                                 model::StorePaths& references) {
  auto import = parts_.store.begin_import(request_.account, output_import(index));
  ContentDigest digest(method_of(index));
  const std::function<void(ByteView)> take = [&import, &digest](ByteView bytes) {
    feed_whole(import, bytes);
    digest.feed(bytes);
  };
  co_await read_output(index, take);
  references = import.found_references();
  const bool names_outputs =
      std::any_of(output_paths_.begin(), output_paths_.end(), [&](const auto& path) {
        return std::binary_search(references.begin(), references.end(), path);
      });
  if (names_outputs) {
    co_return std::nullopt;
  }
  const model::ContentAddress address{method_of(index).method, digest.finish(drv_text_)};
  auto seal = [this, &import, &address, index] {
    return import.seal_as_made(output_paths_[index].name(), address);
  };
  co_return co_await parts_.pool.run(std::move(seal));
}

/// What becomes of the names that the builder saw.
struct Attempt::NewNames {
  HashRewriter naming;  ///< for the digest: the own name is blanked
  HashRewriter writing; ///< for the archive; without the own name, which the digest gives
  model::StorePaths references;
  bool itself = false;
};

Attempt::NewNames Attempt::new_names(std::size_t index,
                                     const model::StorePaths& found,
                                     const MadeOutputs& made) const {
  NewNames names;
  for (const auto& reference : found) {
    const auto other = std::find(output_paths_.begin(), output_paths_.end(), reference);
    if (other == output_paths_.end()) {
      names.references.push_back(reference);
      continue;
    }
    const auto at = static_cast<std::size_t>(other - output_paths_.begin());
    if (at == index) {
      names.itself = true;
      continue;
    }
    const auto& path = made[at]->path;
    names.references.push_back(path);
    names.naming.replace(reference.hash_part(), path.hash_part());
    names.writing.replace(reference.hash_part(), path.hash_part());
  }
  model::sort_unique(names.references);
  const bool noted = request_.self_references == model::SelfReferences::WithOffsets;
  names.naming.replace(output_paths_[index].hash_part(), {kNoHash.data(), kNoHash.size()}, noted);
  return names;
}

/// Takes an output that refers to itself or to others, which are all in `made` already. `found` is
/// what it refers to.
aio::Task<model::PathInfo> Attempt::collect_rewritten(std::size_t index,
                                                      const model::StorePaths& found,
                                                      const MadeOutputs& made) {
  const auto& scratch = output_paths_[index];
  auto names = new_names(index, found, made);
  const auto method = method_of(index);
  ContentDigest digest(method);
  const std::function<void(ByteView)> name = [&names, &digest](ByteView bytes) {
    digest.feed(names.naming.feed(bytes));
  };
  co_await read_output(index, name);
  digest.feed(names.naming.finish());
  digest.append_offsets(names.naming.noted());
  const model::ContentAddress address{method.method, digest.finish(drv_text_)};
  const auto path = model::make_content_addressed_path(
      parts_.store.dir(), scratch.name(), address, names.references, names.itself);
  names.writing.replace(scratch.hash_part(), path.hash_part());

  auto incoming = output_import(index);
  incoming.path = path;
  incoming.content_address = model::print(address);
  incoming.scan_for = names.references;
  incoming.scan_for.push_back(path);
  auto import = parts_.store.begin_import(request_.account, std::move(incoming));
  const std::function<void(ByteView)> take = [&import, &names](ByteView bytes) {
    feed_whole(import, names.writing.feed(bytes));
  };
  co_await read_output(index, take);
  auto seal = [&import, &names] {
    feed_whole(import, names.writing.finish());
    return import.seal();
  };
  co_return co_await parts_.pool.run(std::move(seal));
}

aio::Task<void> Attempt::collect_made() {
  MadeOutputs made;
  std::vector<model::PathInfo> seen; // under the names that the builder saw
  for (std::size_t index = 0; index < output_names_.size(); ++index) {
    model::StorePaths references;
    auto info = co_await collect_plain(index, references);
    made.push_back(std::move(info));
    seen.push_back({output_paths_[index], {}, {}, 0, std::move(references), 0, false, {}, {}});
  }
  for (const auto index : order_of_outputs(seen, drv_text_)) {
    if (!made[index]) {
      auto info = co_await collect_rewritten(index, seen[index].references, made);
      made[index] = std::move(info);
    }
  }
  for (auto& info : made) {
    built_.push_back(std::move(*info));
  }
}

} // namespace nixbuild::build
