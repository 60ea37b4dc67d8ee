#include "disk_call.hpp"
#include "metadata_rules.hpp"
#include "store_state.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/reader.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <variant>

namespace nixbuild::store {

namespace {

constexpr std::size_t kReadBytes = 256 * kKiB;

struct Regenerated {
  Hash hash;
  std::uint64_t size = 0;
};

Regenerated regenerate(Export& source) {
  Hasher hasher(HashAlgorithm::Sha256);
  Regenerated result;
  Bytes buffer(kReadBytes);
  while (const auto piece = source.next()) {
    if (const auto* literal = std::get_if<segment::LiteralPiece>(&*piece)) {
      hasher.update(literal->bytes);
      result.size += literal->bytes.size();
      continue;
    }
    auto [offset, length] = std::get<segment::DataPiece>(*piece);
    result.size += length;
    while (length > 0) {
      const auto part = MutableBytes(buffer).first(
          static_cast<std::size_t>(std::min<std::uint64_t>(length, buffer.size())));
      read_exactly_at(source.data_fd(), offset, part, "reading stored contents");
      hasher.update(part);
      offset += part.size();
      length -= part.size();
    }
  }
  result.hash = hasher.finish();
  return result;
}

void check_contents(Store& store, AccountId account, const model::StorePath& path) {
  auto source = store.open_export(account, path);
  segment::validate(source.metadata(), source.data_bytes());
  const auto found = regenerate(source);
  const auto& info = source.info();
  if (found.size != info.nar_size) {
    throw Error(Reaction::Corrupt,
                "store.nar-size",
                fmt::format("the NAR has {} bytes, registered are {}", found.size, info.nar_size));
  }
  if (found.hash != info.nar_hash) {
    throw Error(Reaction::Corrupt,
                "store.nar-hash",
                fmt::format("the NAR has hash sha256:{}, registered is sha256:{}",
                            nix32_encode(found.hash.bytes()),
                            nix32_encode(info.nar_hash.bytes())));
  }
  const auto valid = store.db().valid_paths(account, info.references);
  for (const auto& reference : info.references) {
    if (!std::binary_search(valid.begin(), valid.end(), reference)) {
      throw_invalid_reference(path, reference);
    }
  }
}

} // namespace

std::vector<VerifyFinding> Store::verify(AccountId account,
                                         std::span<const model::StorePath> paths) {
  model::StorePaths all;
  if (paths.empty()) {
    all = state_->db.all_paths(account);
    paths = all;
  }
  std::vector<VerifyFinding> findings;
  for (const auto& path : paths) {
    try {
      check_contents(*this, account, path);
    } catch (const Error& error) {
      findings.push_back({path, error.code(), error.message()});
    }
  }
  return findings;
}

} // namespace nixbuild::store
