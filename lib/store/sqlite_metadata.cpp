#include "metadata_rules.hpp"
#include "path_key.hpp"
#include "sqlite_builds.hpp"
#include "sqlite_connection.hpp"
#include "sqlite_keys.hpp"
#include "sqlite_paths.hpp"
#include "sqlite_realisations.hpp"
#include "sqlite_writer.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/store/sqlite.hpp>

#include <algorithm>
#include <utility>

namespace nixbuild::store {

namespace {

/// Paths whose infos are held in memory at a time.
constexpr std::size_t kInfoChunk = 8192;

/// Connections for reading. As many as there are threads that read at the same time; the spare ones
/// are kept.
class ReaderPool {
public:
  ReaderPool(std::filesystem::path path, const SqliteOptions& options)
      : path_(std::move(path)), options_(options) {}

  /// Runs `ask` with a connection in a read transaction.
  template <class Ask>
  auto read(Ask&& ask) {
    const Loan loan{*this, take()};
    const Snapshot snapshot(*loan.connection);
    return ask(*loan.connection);
  }

private:
  struct Loan {
    ReaderPool& pool;
    std::unique_ptr<Connection> connection;

    Loan(ReaderPool& from, std::unique_ptr<Connection> lent)
        : pool(from), connection(std::move(lent)) {}

    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    // Runs while the transaction has been ended already: Snapshot is declared after the loan.
    ~Loan() { pool.give_back(connection.release()); }
  };

  std::unique_ptr<Connection> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        auto connection = std::move(idle_.back());
        idle_.pop_back();
        return connection;
      }
    }
    return std::make_unique<Connection>(path_, options_, false);
  }

  void give_back(Connection* returned) noexcept {
    std::unique_ptr<Connection> connection(returned);
    const std::lock_guard lock(mutex_);
    if (idle_.size() < options_.idle_readers && connection->idle()) {
      try {
        idle_.push_back(std::move(connection));
      } catch (const std::bad_alloc&) {
        // Then it is closed.
      }
    }
  }

  std::filesystem::path path_;
  SqliteOptions options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_;
};

/// Readers ask in key order and gain little from a cache.
SqliteOptions for_readers(SqliteOptions options) {
  options.cache_kib /= 4;
  return options;
}

class SqliteMetadata final : public MetadataDb {
public:
  SqliteMetadata(const std::filesystem::path& path,
                 const SqliteOptions& options,
                 std::unique_ptr<Connection> connection)
      : readers_(path, for_readers(options)), writer_(std::move(connection)) {}

  AccountId ensure_account(std::string_view name) override {
    check_account_name(name);
    if (const auto existing = find_account(name)) {
      return *existing;
    }
    writer_.write([&](Connection& connection) {
      Query(connection, "insert or ignore into Accounts (name) values (?)").bind(0, name).run();
    });
    const auto made = find_account(name);
    if (!made) {
      throw Error(Reaction::Busy, "account.unknown", "the account was removed at this moment");
    }
    return *made;
  }

  std::optional<AccountId> find_account(std::string_view name) override {
    return readers_.read([&](Connection& connection) -> std::optional<AccountId> {
      Query query(connection, "select id from Accounts where name = ?");
      query.bind(0, name);
      return query.step() ? std::optional(AccountId{query.integer(0)}) : std::nullopt;
    });
  }

  std::vector<Account> accounts() override {
    return readers_.read([&](Connection& connection) {
      std::vector<Account> result;
      Query query(connection, "select id, name from Accounts order by name");
      while (query.step()) {
        result.push_back({AccountId{query.integer(0)}, std::string(query.text(1))});
      }
      return result;
    });
  }

  void remove_account(AccountId account) override {
    writer_.write([&](Connection& connection) {
      Query(connection,
            "delete from Refs where referrer in (select id from Paths where account = ?)")
          .bind(0, account.value)
          .run();
      delete_realisations_of(connection, account);
      Query(connection, "delete from Paths where account = ?").bind(0, account.value).run();
      delete_builds_of(connection, account);
      delete_keys_of(connection, account);
      Query(connection, "delete from Accounts where id = ?").bind(0, account.value).run();
      if (connection.changes() == 0) {
        throw_unknown_account(account);
      }
    });
  }

  std::int64_t add_key(const SshKey& key) override {
    std::int64_t id = 0;
    writer_.write([&](Connection& connection) { id = insert_key(connection, key); });
    return id;
  }

  void update_key(const SshKey& key) override {
    writer_.write([&](Connection& connection) { replace_key(connection, key); });
  }

  void touch_key(AccountId account, std::int64_t id, std::int64_t used_at) override {
    writer_.write([&](Connection& connection) {
      Query(connection, "update Keys set last_used_at = ? where account = ? and id = ?")
          .bind(0, used_at)
          .bind(1, account.value)
          .bind(2, id)
          .run();
    });
  }

  void remove_key(AccountId account, std::int64_t id) override {
    writer_.write([&](Connection& connection) { delete_key(connection, account, id); });
  }

  std::optional<SshKey> key(AccountId account, std::int64_t id) override {
    return readers_.read(
        [&](Connection& connection) { return select_key(connection, account, id); });
  }

  std::optional<SshKey> find_key(std::string_view blob) override {
    return readers_.read(
        [&](Connection& connection) { return select_key_of_blob(connection, blob); });
  }

  std::vector<SshKey> keys(AccountId account) override {
    return readers_.read([&](Connection& connection) { return select_keys(connection, account); });
  }

  StoredSettings account_settings(AccountId account) override {
    return readers_.read(
        [&](Connection& connection) { return select_account_settings(connection, account); });
  }

  void set_account_setting(AccountId account,
                           std::string_view name,
                           std::optional<std::string_view> value) override {
    writer_.write(
        [&](Connection& connection) { put_account_setting(connection, account, name, value); });
  }

  StoredSettings key_settings(AccountId account, std::int64_t key) override {
    return readers_.read(
        [&](Connection& connection) { return select_key_settings(connection, account, key); });
  }

  void set_key_setting(AccountId account,
                       std::int64_t key,
                       std::string_view name,
                       std::optional<std::string_view> value) override {
    writer_.write(
        [&](Connection& connection) { put_key_setting(connection, account, key, name, value); });
  }

  model::StorePaths valid_paths(AccountId account,
                                std::span<const model::StorePath> paths) override {
    return readers_.read(
        [&](Connection& connection) { return select_valid(connection, account, paths); });
  }

  std::optional<model::PathInfo> path_info(AccountId account,
                                           const model::StorePath& path) override {
    return readers_.read([&](Connection& connection) -> std::optional<model::PathInfo> {
      RowNames names;
      std::optional<model::PathInfo> found;
      select_infos(connection, account, {&path, 1}, names, [&](const model::PathInfo& info) {
        found = info;
      });
      return found;
    });
  }

  void path_infos(AccountId account,
                  std::span<const model::StorePath> paths,
                  const std::function<void(const model::PathInfo&)>& visit) override {
    readers_.read([&](Connection& connection) {
      RowNames names;
      while (!paths.empty()) {
        const auto chunk = paths.first(std::min(paths.size(), kInfoChunk));
        select_infos(connection, account, chunk, names, visit);
        paths = paths.subspan(chunk.size());
      }
    });
  }

  model::StorePaths closure(AccountId account, std::span<const model::StorePath> roots) override {
    return readers_.read(
        [&](Connection& connection) { return select_closure(connection, account, roots); });
  }

  model::StorePaths all_paths(AccountId account) override {
    return readers_.read([&](Connection& connection) { return select_all(connection, account); });
  }

  std::uint64_t stored_bytes(AccountId account) override {
    return readers_.read(
        [&](Connection& connection) { return select_stored_bytes(connection, account); });
  }

  std::optional<model::StorePath> path_of_hash_part(AccountId account,
                                                    std::string_view hash_part) override {
    if (hash_part.size() != model::StorePath::kHashLength) {
      return std::nullopt;
    }
    auto found = readers_.read([&](Connection& connection) {
      return select_by_key(connection, account, key_of_hash_part(hash_part));
    });
    // A foreign character would have been read as a zero.
    return found && found->hash_part() == hash_part ? std::move(found) : std::nullopt;
  }

  model::StorePaths referrers(AccountId account, const model::StorePath& path) override {
    return readers_.read(
        [&](Connection& connection) { return select_referrers(connection, account, path); });
  }

  model::StorePaths paths_named(AccountId account, std::span<const std::string> names) override {
    return readers_.read(
        [&](Connection& connection) { return select_named(connection, account, names); });
  }

  void register_paths(AccountId account, std::span<const model::PathInfo> infos) override {
    if (!infos.empty()) {
      writer_.write([&](Connection& connection) { insert_paths(connection, account, infos); });
    }
  }

  void add_signatures(AccountId account,
                      const model::StorePath& path,
                      std::span<const std::string> signatures) override {
    writer_.write(
        [&](Connection& connection) { update_signatures(connection, account, path, signatures); });
  }

  void remove_paths(AccountId account, std::span<const model::StorePath> paths) override {
    if (!paths.empty()) {
      writer_.write([&](Connection& connection) { delete_paths(connection, account, paths); });
    }
  }

  void register_realisations(AccountId account,
                             std::span<const StoredRealisation> realisations) override {
    if (!realisations.empty()) {
      writer_.write(
          [&](Connection& connection) { insert_realisations(connection, account, realisations); });
    }
  }

  std::optional<model::Realisation> realisation(AccountId account,
                                                const RealisationKey& key) override {
    return readers_.read(
        [&](Connection& connection) { return select_realisation(connection, account, key); });
  }

  bool nar_hash_in_use(const Hash& nar_hash) override {
    return readers_.read([&](Connection& connection) {
      Query query(connection,
                  "select 1 from Paths where substr(nar_hash, 1, 8) = ? and nar_hash = ? limit 1");
      const auto bytes = nar_hash.bytes();
      query.bind(0, bytes.first(8)).bind(1, bytes);
      return query.step();
    });
  }

  std::int64_t add_build(const BuildRecord& record) override {
    std::int64_t id = 0;
    writer_.write([&](Connection& connection) { id = insert_build(connection, record); });
    return id;
  }

  void update_build(const BuildRecord& record) override {
    writer_.write([&](Connection& connection) { update_build_row(connection, record); });
  }

  void note_sent(AccountId account, std::int64_t build, TimeSpan sent) override {
    writer_.write([&](Connection& connection) { update_sent(connection, account, build, sent); });
  }

  std::optional<BuildRecord> build(AccountId account, std::int64_t id) override {
    return readers_.read(
        [&](Connection& connection) { return select_build(connection, account, id); });
  }

  std::vector<BuildRecord> builds(AccountId account, std::size_t limit) override {
    return readers_.read(
        [&](Connection& connection) { return select_builds(connection, account, limit); });
  }

  std::size_t remove_builds(std::int64_t before_us, std::size_t limit) override {
    std::size_t count = 0;
    writer_.write([&](Connection& connection) {
      count = delete_builds_before(connection, before_us, limit);
    });
    return count;
  }

  std::uint64_t cpu_time_us(AccountId account, std::int64_t since_us) override {
    return readers_.read(
        [&](Connection& connection) { return select_cpu_time(connection, account, since_us); });
  }

  std::int64_t open_build(const BuildRecord& record, std::string_view request) override {
    std::int64_t id = 0;
    writer_.write(
        [&](Connection& connection) { id = insert_open_build(connection, record, request); });
    return id;
  }

  bool
  begin_attempt(const BuildRecord& record, std::string_view plan, std::uint64_t log_base) override {
    bool begun = false;
    writer_.write([&](Connection& connection) {
      begun = update_open_build(connection, record, plan, log_base);
    });
    return begun;
  }

  bool end_build(const BuildRecord& record,
                 std::span<const model::PathInfo> outputs,
                 const BuildOutcome* outcome) override {
    bool ended = false;
    writer_.write(
        [&](Connection& connection) { ended = close_build(connection, record, outputs, outcome); });
    return ended;
  }

  std::vector<OpenBuild> open_builds() override {
    return readers_.read([&](Connection& connection) { return select_open_builds(connection); });
  }

  std::optional<BuildOutcome>
  find_outcome(AccountId account, const Hash& key, bool of_others) override {
    return readers_.read([&](Connection& connection) {
      return select_outcome(connection, account, key, of_others);
    });
  }

private:
  ReaderPool readers_;
  Writer writer_;
};

} // namespace

std::unique_ptr<MetadataDb> open_sqlite_metadata(const std::filesystem::path& path,
                                                 const SqliteOptions& options) {
  auto connection = std::make_unique<Connection>(path, options, true);
  bring_schema_up_to_date(*connection, path);
  return std::make_unique<SqliteMetadata>(path, options, std::move(connection));
}

} // namespace nixbuild::store
