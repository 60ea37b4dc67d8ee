#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/path_info.hpp>

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::store {

/// An account's number in this database.
struct AccountId {
  std::int64_t value = 0;
  auto operator<=>(const AccountId&) const = default;
};

struct Account {
  AccountId id;
  std::string name; ///< `[a-z0-9][a-z0-9-]{0,62}`
};

/// An SSH key that leads into an account. Times are seconds since 1970. What permissions and
/// settings mean is the server's business; here they are words.
struct SshKey {
  std::int64_t id = 0; ///< given by the database, never twice
  AccountId account;
  std::string algorithm; ///< `ssh-ed25519`
  std::string blob;      ///< the public key's bytes, which `authorized_keys` has in base 64
  std::string name;      ///< for people
  std::optional<std::string> permissions; ///< separated by blanks; absent: as the account says
  std::map<std::string, std::string> tags;
  std::int64_t expires_at = 0; ///< 0: never
  std::int64_t created_at = 0;
  std::int64_t last_used_at = 0; ///< 0: not yet

  bool operator==(const SshKey&) const = default;
};

/// Settings as they were given: name → value.
using StoredSettings = std::map<std::string, std::string>;

/// What a build has made of one output.
struct BuildOutput {
  std::string name;
  model::StorePath path;
  Hash nar_hash;
  std::uint64_t nar_size = 0;

  bool operator==(const BuildOutput&) const = default;
};

/// When something was under way, in microseconds since 1970; both 0: it was not.
struct TimeSpan {
  std::int64_t begin_us = 0;
  std::int64_t end_us = 0;

  bool operator==(const TimeSpan&) const = default;
};

/// What the session that asked for a build did around it: each from the first beginning of its kind
/// to the last end, for the build's sake as far as that can be told from the order of things.
struct SessionSpans {
  TimeSpan connect; ///< until protocol and account were known; only of a session's first builds
  TimeSpan query;   ///< questions answered
  TimeSpan upload;  ///< paths taken
  TimeSpan send;    ///< outputs given to the client, once they were there

  bool operator==(const SessionSpans&) const = default;
};

/// A build as it is remembered. Times are microseconds since 1970; 0: not yet.
struct BuildRecord {
  std::int64_t id = 0; ///< given by the database
  AccountId account;
  std::string derivation; ///< base name of the .drv
  std::string platform;
  std::optional<model::BuildStatus> status; ///< absent while it runs
  std::string error;
  std::int64_t created_us = 0;
  std::int64_t started_us = 0;
  std::int64_t stopped_us = 0;
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t peak_memory_bytes = 0;
  std::uint64_t cpu_us = 0;
  std::uint64_t log_bytes = 0;
  std::string accelerator;
  std::string phases;             ///< JSON object: phase → microseconds
  unsigned attempt = 0;           ///< machines started for it so far; fences what earlier ones say
  std::optional<Hash> key;        ///< of its derivation and inputs, as in BuildOutcome
  std::int64_t reused = 0;        ///< the account's build whose result this is; 0: none
  bool of_another = false;        ///< the result of another account's build
  std::string ssh_key;            ///< number of the key that asked for it; empty: none
  std::set<std::string> tags;     ///< `NAME:VALUE`, without control characters
  std::uint64_t disk_bytes = 0;   ///< that the builder had written when it ended
  std::uint64_t output_bytes = 0; ///< NAR bytes of all outputs together
  /// As they came out, by name; empty unless it ended well. They may be gone from the store.
  std::vector<BuildOutput> outputs;
  /// Of whoever asked first. Set when the build is added; update_build leaves it as it is.
  SessionSpans session;
};

/// A build that has not ended, with what is needed to take it up again after the daemon's death.
struct OpenBuild {
  BuildRecord record;
  std::string plan;           ///< id of the running attempt's plan; empty: no machine was started
  std::uint64_t log_base = 0; ///< size of the stored log when that attempt began
  std::string request;        ///< what was asked for, in a form of the room build
};

/// How a build ended, for later askers of the same key (decision 0014).
struct BuildOutcome {
  Hash key; ///< of the derivation, its platform, and the names and NAR hashes of all inputs
  AccountId account;
  std::int64_t build = 0; ///< its number in that account
  model::BuildStatus status = model::BuildStatus::Built;
  std::string error;                    ///< empty on success
  bool shared = false;                  ///< accounts that allow it may use the result, too
  std::int64_t timeout_seconds = 0;     ///< the limit that ended it; 0: it was not that
  std::int64_t silence_seconds = 0;     ///< the same for a limit of silence
  std::vector<model::PathInfo> outputs; ///< as they were built: no deriver, no signatures
};

/// What a realisation is of: an output of a derivation whose path does not follow from it.
struct RealisationKey {
  /// 64 hexadecimal digits of the derivation's hash, or the base name of its `.drv`.
  std::string derivation;
  std::string output;
  /// Nix versions that name self references differently do not see each other's realisations.
  model::SelfReferences self_references = model::SelfReferences::WithOffsets;

  auto operator<=>(const RealisationKey&) const = default;
};

struct StoredRealisation {
  RealisationKey key;
  model::Realisation realisation;
};

/// Port: who owns which valid paths, and what was built. Synchronous and thread safe; callers on an
/// event loop move calls to a blocking pool. Every path question is asked for one account; nothing
/// of another account is visible through it.
class MetadataDb {
public:
  virtual ~MetadataDb() = default;

  /// The account of that name, made when missing. Error `account.name`.
  virtual AccountId ensure_account(std::string_view name) = 0;
  virtual std::optional<AccountId> find_account(std::string_view name) = 0;
  virtual std::vector<Account> accounts() = 0;
  /// Removes the account with its paths' names, builds, keys and settings. Error `account.unknown`.
  virtual void remove_account(AccountId account) = 0;

  /// Remembers a key and returns its number. Errors: `account.unknown`, `key.taken` (the same
  /// public key leads somewhere already, in this account or another one).
  virtual std::int64_t add_key(const SshKey& key) = 0;
  /// Name, permissions, tags and expiry. Error `key.unknown`.
  virtual void update_key(const SshKey& key) = 0;
  /// Notes the time of a session. A key that is gone is no error.
  virtual void touch_key(AccountId account, std::int64_t id, std::int64_t used_at) = 0;
  /// Removes the key with its settings. Error `key.unknown`.
  virtual void remove_key(AccountId account, std::int64_t id) = 0;
  virtual std::optional<SshKey> key(AccountId account, std::int64_t id) = 0;
  /// The key with these bytes, of whatever account.
  virtual std::optional<SshKey> find_key(std::string_view blob) = 0;
  /// By number.
  virtual std::vector<SshKey> keys(AccountId account) = 0;

  virtual StoredSettings account_settings(AccountId account) = 0;
  /// No value: the setting is removed; one that is not there is no error. Error `account.unknown`.
  virtual void set_account_setting(AccountId account,
                                   std::string_view name,
                                   std::optional<std::string_view> value) = 0;
  virtual StoredSettings key_settings(AccountId account, std::int64_t key) = 0;
  /// As for accounts. Error `key.unknown`.
  virtual void set_key_setting(AccountId account,
                               std::int64_t key,
                               std::string_view name,
                               std::optional<std::string_view> value) = 0;

  /// The valid ones among `paths`, in the order asked.
  virtual model::StorePaths valid_paths(AccountId account,
                                        std::span<const model::StorePath> paths) = 0;
  virtual std::optional<model::PathInfo> path_info(AccountId account,
                                                   const model::StorePath& path) = 0;
  /// Calls `visit` for each valid one among `paths`, in the order asked, without holding them all.
  virtual void path_infos(AccountId account,
                          std::span<const model::StorePath> paths,
                          const std::function<void(const model::PathInfo&)>& visit) = 0;
  /// All paths reachable from `roots` by references, roots included, sorted. Error
  /// `store.invalid-path` naming a root that is not valid.
  virtual model::StorePaths closure(AccountId account, std::span<const model::StorePath> roots) = 0;
  virtual model::StorePaths all_paths(AccountId account) = 0;
  /// NAR bytes of all the account's paths together. Costs a look at each of them.
  virtual std::uint64_t stored_bytes(AccountId account) = 0;
  virtual std::optional<model::StorePath> path_of_hash_part(AccountId account,
                                                            std::string_view hash_part) = 0;
  virtual model::StorePaths referrers(AccountId account, const model::StorePath& path) = 0;
  /// Valid paths whose name (the part behind the digest) is one of `names`. Costs a look at each of
  /// the account's paths.
  virtual model::StorePaths paths_named(AccountId account, std::span<const std::string> names) = 0;

  /// Registers all of `infos` in one durable transaction. References must be valid already or be in
  /// the batch: else `store.invalid-reference`, and nothing is registered. A path that is valid
  /// already stays as it is. Concurrent calls are gathered into one commit.
  virtual void register_paths(AccountId account, std::span<const model::PathInfo> infos) = 0;
  virtual void add_signatures(AccountId account,
                              const model::StorePath& path,
                              std::span<const std::string> signatures) = 0;
  /// Removes names; a path that another valid path refers to is refused (`store.referenced`).
  virtual void remove_paths(AccountId account, std::span<const model::StorePath> paths) = 0;
  /// Remembers where outputs came out, in one transaction. One that is known already gets the
  /// signatures, if it is at the same path, and else stays. Error `store.invalid-path` for a path
  /// that is not valid. A realisation goes when its path goes.
  virtual void register_realisations(AccountId account,
                                     std::span<const StoredRealisation> realisations) = 0;
  virtual std::optional<model::Realisation> realisation(AccountId account,
                                                        const RealisationKey& key) = 0;
  /// True when some account still has a path with this NAR hash.
  virtual bool nar_hash_in_use(const Hash& nar_hash) = 0;

  virtual std::int64_t add_build(const BuildRecord& record) = 0;
  virtual void update_build(const BuildRecord& record) = 0;
  /// Sets when outputs of the build were sent to the session that asked for it. One that is gone is
  /// no error.
  virtual void note_sent(AccountId account, std::int64_t build, TimeSpan sent) = 0;
  virtual std::optional<BuildRecord> build(AccountId account, std::int64_t id) = 0;
  /// Newest first.
  virtual std::vector<BuildRecord> builds(AccountId account, std::size_t limit) = 0;
  /// Microseconds for which builds of the account that ended since `since_us` have had a cpu: cpus
  /// times duration, whoever's fault the end was. Results that were only reused cost nothing.
  virtual std::uint64_t cpu_time_us(AccountId account, std::int64_t since_us) = 0;
  /// Forgets builds of all accounts that ended before `before_us`, at most `limit`, and what later
  /// askers of their keys would have been given; their outputs stay. Returns how many they were.
  virtual std::size_t remove_builds(std::int64_t before_us, std::size_t limit) = 0;

  /// Adds a build and remembers it as open, in one transaction. Returns its number.
  virtual std::int64_t open_build(const BuildRecord& record, std::string_view request) = 0;
  /// A machine is about to be started: `record.attempt` is its number. False, and nothing changes,
  /// unless the build is open and has come to the attempt before.
  virtual bool
  begin_attempt(const BuildRecord& record, std::string_view plan, std::uint64_t log_base) = 0;
  /// The end of an open build, in one durable transaction: registers `outputs` (as register_paths),
  /// updates the record, keeps `outcome` where one is given in place of an earlier one of the same
  /// account and key, and forgets that the build is open. False, and nothing changes, unless the
  /// build is open and `record.attempt` is its attempt: an old attempt registers nothing.
  virtual bool end_build(const BuildRecord& record,
                         std::span<const model::PathInfo> outputs,
                         const BuildOutcome* outcome) = 0;
  /// Of all accounts, oldest first.
  virtual std::vector<OpenBuild> open_builds() = 0;
  /// The account's own outcome for `key`; else, where `of_others`, a shared success of another one.
  virtual std::optional<BuildOutcome>
  find_outcome(AccountId account, const Hash& key, bool of_others) = 0;
};

} // namespace nixbuild::store
