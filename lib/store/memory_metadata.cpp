#include "memory_builds.hpp"
#include "metadata_rules.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/store/memory.hpp>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

namespace nixbuild::store {

namespace {

using Infos = std::map<model::StorePath, model::PathInfo>;

/// The first path of that hash part, or the end.
Infos::const_iterator find_hash_part(const Infos& infos, std::string_view hash_part) {
  const auto found = std::find_if(infos.begin(), infos.end(), [&](const auto& entry) {
    return entry.first.hash_part() == hash_part;
  });
  return found;
}

class MemoryMetadata final : public MetadataDb {
public:
  AccountId ensure_account(std::string_view name) override {
    check_account_name(name);
    const std::lock_guard lock(mutex_);
    const auto found = accounts_.find(name);
    if (found != accounts_.end()) {
      return found->second;
    }
    const AccountId id{++last_account_};
    accounts_.emplace(name, id);
    paths_.try_emplace(id);
    return id;
  }

  std::optional<AccountId> find_account(std::string_view name) override {
    const std::lock_guard lock(mutex_);
    const auto found = accounts_.find(name);
    return found == accounts_.end() ? std::nullopt : std::optional(found->second);
  }

  std::vector<Account> accounts() override {
    const std::lock_guard lock(mutex_);
    std::vector<Account> result;
    for (const auto& [name, id] : accounts_) {
      result.push_back({id, name});
    }
    return result;
  }

  void remove_account(AccountId account) override {
    const std::lock_guard lock(mutex_);
    if (paths_.erase(account) == 0) {
      throw_unknown_account(account);
    }
    std::erase_if(accounts_, [&](const auto& entry) { return entry.second == account; });
    builds_.remove_account(account);
    realisations_.erase(account);
    std::erase_if(keys_, [&](const auto& entry) { return entry.second.key.account == account; });
    account_settings_.erase(account);
  }

  std::int64_t add_key(const SshKey& key) override {
    const std::lock_guard lock(mutex_);
    if (!paths_.contains(key.account)) {
      throw_unknown_account(key.account);
    }
    for (const auto& [id, held] : keys_) {
      if (held.key.blob == key.blob) {
        throw_key_taken(key.account, held.key);
      }
    }
    const auto id = ++last_key_;
    keys_[id].key = key;
    keys_[id].key.id = id;
    return id;
  }

  void update_key(const SshKey& key) override {
    const std::lock_guard lock(mutex_);
    auto& held = held_key(key.account, key.id).key;
    held.name = key.name;
    held.permissions = key.permissions;
    held.tags = key.tags;
    held.expires_at = key.expires_at;
  }

  void touch_key(AccountId account, std::int64_t id, std::int64_t used_at) override {
    const std::lock_guard lock(mutex_);
    if (const auto found = find(account, id); found != keys_.end()) {
      found->second.key.last_used_at = used_at;
    }
  }

  void remove_key(AccountId account, std::int64_t id) override {
    const std::lock_guard lock(mutex_);
    static_cast<void>(held_key(account, id));
    keys_.erase(id);
  }

  std::optional<SshKey> key(AccountId account, std::int64_t id) override {
    const std::lock_guard lock(mutex_);
    const auto found = find(account, id);
    return found == keys_.end() ? std::nullopt : std::optional(found->second.key);
  }

  std::optional<SshKey> find_key(std::string_view blob) override {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(keys_.begin(), keys_.end(), [&](const auto& entry) {
      return entry.second.key.blob == blob;
    });
    return found == keys_.end() ? std::nullopt : std::optional(found->second.key);
  }

  std::vector<SshKey> keys(AccountId account) override {
    const std::lock_guard lock(mutex_);
    std::vector<SshKey> result;
    for (const auto& [id, held] : keys_) {
      if (held.key.account == account) {
        result.push_back(held.key);
      }
    }
    return result;
  }

  StoredSettings account_settings(AccountId account) override {
    const std::lock_guard lock(mutex_);
    const auto found = account_settings_.find(account);
    return found == account_settings_.end() ? StoredSettings() : found->second;
  }

  void set_account_setting(AccountId account,
                           std::string_view name,
                           std::optional<std::string_view> value) override {
    const std::lock_guard lock(mutex_);
    if (!paths_.contains(account)) {
      throw_unknown_account(account);
    }
    put_setting(account_settings_[account], name, value);
  }

  StoredSettings key_settings(AccountId account, std::int64_t key) override {
    const std::lock_guard lock(mutex_);
    const auto found = find(account, key);
    return found == keys_.end() ? StoredSettings() : found->second.settings;
  }

  void set_key_setting(AccountId account,
                       std::int64_t key,
                       std::string_view name,
                       std::optional<std::string_view> value) override {
    const std::lock_guard lock(mutex_);
    put_setting(held_key(account, key).settings, name, value);
  }

  model::StorePaths valid_paths(AccountId account,
                                std::span<const model::StorePath> paths) override {
    const std::lock_guard lock(mutex_);
    const auto& infos = infos_of(account);
    model::StorePaths result;
    std::copy_if(paths.begin(), paths.end(), std::back_inserter(result), [&](const auto& path) {
      return infos.contains(path);
    });
    return result;
  }

  std::optional<model::PathInfo> path_info(AccountId account,
                                           const model::StorePath& path) override {
    const std::lock_guard lock(mutex_);
    const auto& infos = infos_of(account);
    const auto found = infos.find(path);
    return found == infos.end() ? std::nullopt : std::optional(found->second);
  }

  void path_infos(AccountId account,
                  std::span<const model::StorePath> paths,
                  const std::function<void(const model::PathInfo&)>& visit) override {
    for (const auto& path : paths) {
      if (const auto info = path_info(account, path)) {
        visit(*info);
      }
    }
  }

  model::StorePaths closure(AccountId account, std::span<const model::StorePath> roots) override {
    const std::lock_guard lock(mutex_);
    const auto& infos = infos_of(account);
    model::StorePathSet seen;
    model::StorePaths left(roots.begin(), roots.end());
    while (!left.empty()) {
      const auto path = std::move(left.back());
      left.pop_back();
      const auto found = infos.find(path);
      if (found == infos.end()) {
        throw_invalid_path(path);
      }
      if (seen.insert(path).second) {
        const auto& references = found->second.references;
        left.insert(left.end(), references.begin(), references.end());
      }
    }
    return {seen.begin(), seen.end()};
  }

  model::StorePaths all_paths(AccountId account) override {
    const std::lock_guard lock(mutex_);
    model::StorePaths result;
    for (const auto& [path, info] : infos_of(account)) {
      result.push_back(path);
    }
    return result;
  }

  std::uint64_t stored_bytes(AccountId account) override {
    const std::lock_guard lock(mutex_);
    std::uint64_t bytes = 0;
    for (const auto& [path, info] : infos_of(account)) {
      bytes += info.nar_size;
    }
    return bytes;
  }

  std::optional<model::StorePath> path_of_hash_part(AccountId account,
                                                    std::string_view hash_part) override {
    const std::lock_guard lock(mutex_);
    const auto& infos = infos_of(account);
    const auto found = find_hash_part(infos, hash_part);
    return found == infos.end() ? std::nullopt : std::optional(found->first);
  }

  model::StorePaths referrers(AccountId account, const model::StorePath& path) override {
    const std::lock_guard lock(mutex_);
    model::StorePaths result;
    for (const auto& [referrer, info] : infos_of(account)) {
      if (std::binary_search(info.references.begin(), info.references.end(), path)) {
        result.push_back(referrer);
      }
    }
    return result;
  }

  model::StorePaths paths_named(AccountId account, std::span<const std::string> names) override {
    const std::lock_guard lock(mutex_);
    model::StorePaths result;
    for (const auto& [path, info] : infos_of(account)) {
      if (std::find(names.begin(), names.end(), path.name()) != names.end()) {
        result.push_back(path);
      }
    }
    return result;
  }

  void register_paths(AccountId account, std::span<const model::PathInfo> infos) override {
    const std::lock_guard lock(mutex_);
    register_locked(account, infos);
  }

  void add_signatures(AccountId account,
                      const model::StorePath& path,
                      std::span<const std::string> signatures) override {
    const std::lock_guard lock(mutex_);
    const auto known = paths_.find(account);
    const auto found = known == paths_.end() ? Infos::iterator() : known->second.find(path);
    if (known == paths_.end() || found == known->second.end()) {
      throw_invalid_path(path);
    }
    merge_signatures(found->second.signatures, signatures);
  }

  void remove_paths(AccountId account, std::span<const model::StorePath> paths) override {
    const std::lock_guard lock(mutex_);
    const auto known = paths_.find(account);
    if (known == paths_.end()) {
      return;
    }
    auto next = known->second;
    for (const auto& path : paths) {
      next.erase(path);
    }
    for (const auto& [referrer, info] : next) {
      for (const auto& reference : info.references) {
        if (!next.contains(reference)) {
          throw_referenced(reference, referrer);
        }
      }
    }
    known->second = std::move(next);
    std::erase_if(realisations_[account],
                  [&](const auto& entry) { return !known->second.contains(entry.second.path); });
  }

  void register_realisations(AccountId account,
                             std::span<const StoredRealisation> realisations) override {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, realisation] : realisations) {
      if (!infos_of(account).contains(realisation.path)) {
        throw_invalid_path(realisation.path);
      }
    }
    for (const auto& [key, realisation] : realisations) {
      const auto [known, fresh] = realisations_[account].try_emplace(key, realisation);
      if (!fresh && known->second.path == realisation.path) {
        merge_signatures(known->second.signatures, realisation.signatures);
      }
    }
  }

  std::optional<model::Realisation> realisation(AccountId account,
                                                const RealisationKey& key) override {
    const std::lock_guard lock(mutex_);
    const auto& known = realisations_[account];
    const auto found = known.find(key);
    return found == known.end() ? std::nullopt : std::optional(found->second);
  }

  bool nar_hash_in_use(const Hash& nar_hash) override {
    const std::lock_guard lock(mutex_);
    return std::any_of(paths_.begin(), paths_.end(), [&](const auto& account) {
      return std::any_of(account.second.begin(), account.second.end(), [&](const auto& entry) {
        return entry.second.nar_hash == nar_hash;
      });
    });
  }

  std::int64_t add_build(const BuildRecord& record) override {
    const std::lock_guard lock(mutex_);
    return builds_.add(record);
  }

  void update_build(const BuildRecord& record) override {
    const std::lock_guard lock(mutex_);
    builds_.update(record);
  }

  void note_sent(AccountId account, std::int64_t build, TimeSpan sent) override {
    const std::lock_guard lock(mutex_);
    builds_.note_sent(account, build, sent);
  }

  std::optional<BuildRecord> build(AccountId account, std::int64_t id) override {
    const std::lock_guard lock(mutex_);
    return builds_.find(account, id);
  }

  std::vector<BuildRecord> builds(AccountId account, std::size_t limit) override {
    const std::lock_guard lock(mutex_);
    return builds_.newest(account, limit);
  }

  std::size_t remove_builds(std::int64_t before_us, std::size_t limit) override {
    const std::lock_guard lock(mutex_);
    return builds_.remove(before_us, limit);
  }

  std::uint64_t cpu_time_us(AccountId account, std::int64_t since_us) override {
    const std::lock_guard lock(mutex_);
    return builds_.cpu_time_us(account, since_us);
  }

  std::int64_t open_build(const BuildRecord& record, std::string_view request) override {
    const std::lock_guard lock(mutex_);
    return builds_.open(record, request);
  }

  bool
  begin_attempt(const BuildRecord& record, std::string_view plan, std::uint64_t log_base) override {
    const std::lock_guard lock(mutex_);
    return builds_.begin_attempt(record, plan, log_base);
  }

  bool end_build(const BuildRecord& record,
                 std::span<const model::PathInfo> outputs,
                 const BuildOutcome* outcome) override {
    const std::lock_guard lock(mutex_);
    if (!builds_.is_open(record.id, record.attempt)) {
      return false;
    }
    register_locked(record.account, outputs);
    builds_.end(record, outcome);
    return true;
  }

  std::vector<OpenBuild> open_builds() override {
    const std::lock_guard lock(mutex_);
    return builds_.all_open();
  }

  std::optional<BuildOutcome>
  find_outcome(AccountId account, const Hash& key, bool of_others) override {
    const std::lock_guard lock(mutex_);
    return builds_.find_outcome(account, key, of_others);
  }

private:
  struct HeldKey {
    SshKey key;
    StoredSettings settings;
  };

  using HeldKeys = std::map<std::int64_t, HeldKey>;

  static void put_setting(StoredSettings& settings,
                          std::string_view name,
                          std::optional<std::string_view> value) {
    if (value) {
      settings.insert_or_assign(std::string(name), std::string(*value));
    } else {
      settings.erase(std::string(name));
    }
  }

  HeldKeys::iterator find(AccountId account, std::int64_t id) {
    const auto found = keys_.find(id);
    return found != keys_.end() && found->second.key.account == account ? found : keys_.end();
  }

  HeldKey& held_key(AccountId account, std::int64_t id) {
    const auto found = find(account, id);
    if (found == keys_.end()) {
      throw_unknown_key(id);
    }
    return found->second;
  }

  void register_locked(AccountId account, std::span<const model::PathInfo> infos) {
    if (infos.empty()) {
      return;
    }
    const auto known = paths_.find(account);
    if (known == paths_.end()) {
      throw_unknown_account(account);
    }
    auto next = known->second;
    for (const auto& info : infos) {
      check_registrable(info);
      const auto taken = find_hash_part(next, info.path.hash_part());
      if (taken != next.end() && taken->first != info.path) {
        throw_hash_part_taken(info.path, taken->first);
      }
      next.emplace(info.path, info);
    }
    for (const auto& info : infos) {
      if (known->second.contains(info.path)) {
        continue;
      }
      auto& references = next.find(info.path)->second.references;
      model::sort_unique(references);
      for (const auto& reference : references) {
        if (!next.contains(reference)) {
          throw_invalid_reference(info.path, reference);
        }
      }
    }
    known->second = std::move(next);
  }

  [[nodiscard]] const Infos& infos_of(AccountId account) const {
    static const Infos kNone;
    const auto found = paths_.find(account);
    return found == paths_.end() ? kNone : found->second;
  }

  std::mutex mutex_;
  std::map<std::string, AccountId, std::less<>> accounts_;
  std::map<AccountId, Infos> paths_;
  std::map<AccountId, std::map<RealisationKey, model::Realisation>> realisations_;
  MemoryBuilds builds_;
  std::int64_t last_account_ = 0;
  HeldKeys keys_;
  std::int64_t last_key_ = 0;
  std::map<AccountId, StoredSettings> account_settings_;
};

} // namespace

std::unique_ptr<MetadataDb> make_memory_metadata() {
  return std::make_unique<MemoryMetadata>();
}

} // namespace nixbuild::store
