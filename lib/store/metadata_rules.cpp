#include "metadata_rules.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::store {

void check_account_name(std::string_view name) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  const bool good =
      !name.empty() && name.size() <= 63 && alphanumeric(name.front()) &&
      std::all_of(name.begin(), name.end(), [&](char c) { return alphanumeric(c) || c == '-'; });
  if (!good) {
    throw Error(Reaction::Reject,
                "account.name",
                fmt::format("account name '{}' is not 1 to 63 characters of a-z, 0-9 and '-', the "
                            "first one a letter or digit",
                            name.substr(0, 100)));
  }
}

void throw_unknown_account(AccountId account) {
  throw Error(Reaction::NotFound,
              "account.unknown",
              fmt::format("there is no account with number {}", account.value));
}

void throw_invalid_path(const model::StorePath& path) {
  throw Error(Reaction::NotFound,
              "store.invalid-path",
              fmt::format("path '{}' is not valid", path.base_name()));
}

void throw_missing_segment(const model::PathInfo& info) {
  throw Error(Reaction::Corrupt,
              "store.missing-segment",
              fmt::format("path '{}' is valid, its contents (sha256:{}) are missing",
                          info.path.base_name(),
                          nix32_encode(info.nar_hash.bytes())));
}

void throw_invalid_reference(const model::StorePath& path, const model::StorePath& reference) {
  throw Error(Reaction::Reject,
              "store.invalid-reference",
              fmt::format("path '{}' refers to '{}', which is not valid",
                          path.base_name(),
                          reference.base_name()));
}

void throw_hash_part_taken(const model::StorePath& path, const model::StorePath& existing) {
  throw Error(Reaction::Reject,
              "store.hash-part-taken",
              fmt::format("path '{}' has the hash part of valid path '{}'",
                          path.base_name(),
                          existing.base_name()));
}

void throw_referenced(const model::StorePath& path, const model::StorePath& referrer) {
  throw Error(Reaction::Reject,
              "store.referenced",
              fmt::format("path '{}' cannot be removed: '{}' refers to it",
                          path.base_name(),
                          referrer.base_name()));
}

void throw_unknown_build(std::int64_t id) {
  throw Error(
      Reaction::NotFound, "build.unknown", fmt::format("there is no build with number {}", id));
}

void throw_unknown_key(std::int64_t id) {
  throw Error(Reaction::NotFound, "key.unknown", fmt::format("there is no key with number {}", id));
}

void throw_key_taken(AccountId account, const SshKey& holder) {
  throw Error(
      Reaction::Reject,
      "key.taken",
      account == holder.account
          ? fmt::format("this key is there already, with number {}", holder.id)
          : std::string("this key belongs to another account; one key leads to one account"));
}

void check_registrable(const model::PathInfo& info) {
  if (info.nar_hash.algorithm() != HashAlgorithm::Sha256) {
    throw Error(Reaction::Reject,
                "store.nar-hash",
                fmt::format("path '{}' has a NAR hash that is {}, not sha256",
                            info.path.base_name(),
                            name_of(info.nar_hash.algorithm())));
  }
}

void merge_signatures(std::vector<std::string>& signatures, std::span<const std::string> more) {
  for (const auto& signature : more) {
    if (std::find(signatures.begin(), signatures.end(), signature) == signatures.end()) {
      signatures.push_back(signature);
    }
  }
}

} // namespace nixbuild::store
