#pragma once

#include <nixbuild/store/metadata_db.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nixbuild::tests {

/// Another database with somebody at its door, who is told of each call by name and may throw, or
/// let it wait.
class WatchedMetadata final : public store::MetadataDb {
public:
  using Pass = std::function<void(std::string_view call)>;

  WatchedMetadata(std::unique_ptr<store::MetadataDb> inner, Pass pass)
      : inner_(std::move(inner)), pass_(std::move(pass)) {}

  store::AccountId ensure_account(std::string_view name) override {
    pass_("ensure_account");
    return inner_->ensure_account(name);
  }

  std::optional<store::AccountId> find_account(std::string_view name) override {
    pass_("find_account");
    return inner_->find_account(name);
  }

  std::vector<store::Account> accounts() override {
    pass_("accounts");
    return inner_->accounts();
  }

  void remove_account(store::AccountId account) override {
    pass_("remove_account");
    return inner_->remove_account(account);
  }

  std::int64_t add_key(const store::SshKey& key) override {
    pass_("add_key");
    return inner_->add_key(key);
  }

  void update_key(const store::SshKey& key) override {
    pass_("update_key");
    return inner_->update_key(key);
  }

  void touch_key(store::AccountId account, std::int64_t id, std::int64_t used_at) override {
    pass_("touch_key");
    return inner_->touch_key(account, id, used_at);
  }

  void remove_key(store::AccountId account, std::int64_t id) override {
    pass_("remove_key");
    return inner_->remove_key(account, id);
  }

  std::optional<store::SshKey> key(store::AccountId account, std::int64_t id) override {
    pass_("key");
    return inner_->key(account, id);
  }

  std::optional<store::SshKey> find_key(std::string_view blob) override {
    pass_("find_key");
    return inner_->find_key(blob);
  }

  std::vector<store::SshKey> keys(store::AccountId account) override {
    pass_("keys");
    return inner_->keys(account);
  }

  store::StoredSettings account_settings(store::AccountId account) override {
    pass_("account_settings");
    return inner_->account_settings(account);
  }

  void set_account_setting(store::AccountId account,
                           std::string_view name,
                           std::optional<std::string_view> value) override {
    pass_("set_account_setting");
    return inner_->set_account_setting(account, name, value);
  }

  store::StoredSettings key_settings(store::AccountId account, std::int64_t key) override {
    pass_("key_settings");
    return inner_->key_settings(account, key);
  }

  void set_key_setting(store::AccountId account,
                       std::int64_t key,
                       std::string_view name,
                       std::optional<std::string_view> value) override {
    pass_("set_key_setting");
    return inner_->set_key_setting(account, key, name, value);
  }

  model::StorePaths valid_paths(store::AccountId account,
                                std::span<const model::StorePath> paths) override {
    pass_("valid_paths");
    return inner_->valid_paths(account, paths);
  }

  std::optional<model::PathInfo> path_info(store::AccountId account,
                                           const model::StorePath& path) override {
    pass_("path_info");
    return inner_->path_info(account, path);
  }

  void path_infos(store::AccountId account,
                  std::span<const model::StorePath> paths,
                  const std::function<void(const model::PathInfo&)>& visit) override {
    pass_("path_infos");
    return inner_->path_infos(account, paths, visit);
  }

  model::StorePaths closure(store::AccountId account,
                            std::span<const model::StorePath> roots) override {
    pass_("closure");
    return inner_->closure(account, roots);
  }

  model::StorePaths all_paths(store::AccountId account) override {
    pass_("all_paths");
    return inner_->all_paths(account);
  }

  std::uint64_t stored_bytes(store::AccountId account) override {
    pass_("stored_bytes");
    return inner_->stored_bytes(account);
  }

  std::optional<model::StorePath> path_of_hash_part(store::AccountId account,
                                                    std::string_view hash_part) override {
    pass_("path_of_hash_part");
    return inner_->path_of_hash_part(account, hash_part);
  }

  model::StorePaths referrers(store::AccountId account, const model::StorePath& path) override {
    pass_("referrers");
    return inner_->referrers(account, path);
  }

  model::StorePaths paths_named(store::AccountId account,
                                std::span<const std::string> names) override {
    pass_("paths_named");
    return inner_->paths_named(account, names);
  }

  void register_paths(store::AccountId account, std::span<const model::PathInfo> infos) override {
    pass_("register_paths");
    return inner_->register_paths(account, infos);
  }

  void add_signatures(store::AccountId account,
                      const model::StorePath& path,
                      std::span<const std::string> signatures) override {
    pass_("add_signatures");
    return inner_->add_signatures(account, path, signatures);
  }

  void remove_paths(store::AccountId account, std::span<const model::StorePath> paths) override {
    pass_("remove_paths");
    return inner_->remove_paths(account, paths);
  }

  void register_realisations(store::AccountId account,
                             std::span<const store::StoredRealisation> realisations) override {
    pass_("register_realisations");
    return inner_->register_realisations(account, realisations);
  }

  std::optional<model::Realisation> realisation(store::AccountId account,
                                                const store::RealisationKey& key) override {
    pass_("realisation");
    return inner_->realisation(account, key);
  }

  bool nar_hash_in_use(const Hash& nar_hash) override {
    pass_("nar_hash_in_use");
    return inner_->nar_hash_in_use(nar_hash);
  }

  std::int64_t add_build(const store::BuildRecord& record) override {
    pass_("add_build");
    return inner_->add_build(record);
  }

  void update_build(const store::BuildRecord& record) override {
    pass_("update_build");
    return inner_->update_build(record);
  }

  void note_sent(store::AccountId account, std::int64_t build, store::TimeSpan sent) override {
    pass_("note_sent");
    return inner_->note_sent(account, build, sent);
  }

  std::optional<store::BuildRecord> build(store::AccountId account, std::int64_t id) override {
    pass_("build");
    return inner_->build(account, id);
  }

  std::vector<store::BuildRecord> builds(store::AccountId account, std::size_t limit) override {
    pass_("builds");
    return inner_->builds(account, limit);
  }

  std::uint64_t cpu_time_us(store::AccountId account, std::int64_t since_us) override {
    pass_("cpu_time_us");
    return inner_->cpu_time_us(account, since_us);
  }

  std::size_t remove_builds(std::int64_t before_us, std::size_t limit) override {
    pass_("remove_builds");
    return inner_->remove_builds(before_us, limit);
  }

  std::int64_t open_build(const store::BuildRecord& record, std::string_view request) override {
    pass_("open_build");
    return inner_->open_build(record, request);
  }

  bool begin_attempt(const store::BuildRecord& record,
                     std::string_view plan,
                     std::uint64_t log_base) override {
    pass_("begin_attempt");
    return inner_->begin_attempt(record, plan, log_base);
  }

  bool end_build(const store::BuildRecord& record,
                 std::span<const model::PathInfo> outputs,
                 const store::BuildOutcome* outcome) override {
    pass_("end_build");
    return inner_->end_build(record, outputs, outcome);
  }

  std::vector<store::OpenBuild> open_builds() override {
    pass_("open_builds");
    return inner_->open_builds();
  }

  std::optional<store::BuildOutcome>
  find_outcome(store::AccountId account, const Hash& key, bool of_others) override {
    pass_("find_outcome");
    return inner_->find_outcome(account, key, of_others);
  }

private:
  std::unique_ptr<store::MetadataDb> inner_;
  Pass pass_;
};

} // namespace nixbuild::tests
