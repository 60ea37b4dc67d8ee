#pragma once

#include <nixbuild/store/metadata_db.hpp>

#include <string>
#include <string_view>
#include <vector>

/// Rules and errors that every MetadataDb shares.
namespace nixbuild::store {

/// Error `account.name` unless `[a-z0-9][a-z0-9-]{0,62}`.
void check_account_name(std::string_view name);
[[noreturn]] void throw_unknown_account(AccountId account);
[[noreturn]] void throw_invalid_path(const model::StorePath& path);
/// Error `store.missing-segment`.
[[noreturn]] void throw_missing_segment(const model::PathInfo& info);
[[noreturn]] void throw_invalid_reference(const model::StorePath& path,
                                          const model::StorePath& reference);
[[noreturn]] void throw_hash_part_taken(const model::StorePath& path,
                                        const model::StorePath& existing);
[[noreturn]] void throw_referenced(const model::StorePath& path, const model::StorePath& referrer);
[[noreturn]] void throw_unknown_build(std::int64_t id);
[[noreturn]] void throw_unknown_key(std::int64_t id);
/// Says of a key of another account no more than that it is taken.
[[noreturn]] void throw_key_taken(AccountId account, const SshKey& holder);
/// Error `store.nar-hash` unless the NAR hash is SHA-256; others cannot be stored.
void check_registrable(const model::PathInfo& info);
/// Appends those of `more` that are not there yet.
void merge_signatures(std::vector<std::string>& signatures, std::span<const std::string> more);

} // namespace nixbuild::store
