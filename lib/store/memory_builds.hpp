#pragma once

#include <nixbuild/store/metadata_db.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace nixbuild::store {

/// The builds of a database in memory. The caller locks.
class MemoryBuilds {
public:
  std::int64_t add(const BuildRecord& record);
  void update(const BuildRecord& record);
  void note_sent(AccountId account, std::int64_t id, TimeSpan sent);
  [[nodiscard]] std::optional<BuildRecord> find(AccountId account, std::int64_t id) const;
  [[nodiscard]] std::vector<BuildRecord> newest(AccountId account, std::size_t limit) const;

  [[nodiscard]] std::uint64_t cpu_time_us(AccountId account, std::int64_t since_us) const;

  std::int64_t open(const BuildRecord& record, std::string_view request);
  bool begin_attempt(const BuildRecord& record, std::string_view plan, std::uint64_t log_base);
  [[nodiscard]] bool is_open(std::int64_t build, unsigned attempt) const;
  /// Of a build that `is_open`.
  void end(const BuildRecord& record, const BuildOutcome* outcome);
  [[nodiscard]] std::vector<OpenBuild> all_open() const;
  [[nodiscard]] std::optional<BuildOutcome>
  find_outcome(AccountId account, const Hash& key, bool of_others) const;

  std::size_t remove(std::int64_t before_us, std::size_t limit);
  void remove_account(AccountId account);

private:
  std::map<std::int64_t, BuildRecord> records_;
  std::map<std::int64_t, OpenBuild> open_;
  std::map<std::pair<Hash, AccountId>, BuildOutcome> outcomes_;
  std::int64_t last_ = 0;
};

} // namespace nixbuild::store
