#include "sqlite_paths.hpp"

#include "metadata_rules.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

namespace nixbuild::store {

namespace {

/// A path that is asked for, and where in the question it stood.
struct Asked {
  PathKey key;
  std::size_t index;
};

std::vector<Asked> in_key_order(std::span<const model::StorePath> paths) {
  std::vector<Asked> asked;
  asked.reserve(paths.size());
  for (std::size_t i = 0; i < paths.size(); ++i) {
    asked.push_back({key_of(paths[i]), i});
  }
  std::sort(
      asked.begin(), asked.end(), [](const Asked& a, const Asked& b) { return a.key < b.key; });
  return asked;
}

/// Where in a table by row number it stands. Error `metadata.corrupt` for what cannot be one.
std::size_t place_of_row(std::int64_t row) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 33;
  if (row <= 0 || row > kLimit) {
    throw Error(Reaction::Corrupt, "metadata.corrupt", fmt::format("row number {}", row));
  }
  return static_cast<std::size_t>(row);
}

constexpr const char* kSelectId = "select id from Paths where account = ? and key = ? and name = ?";

std::optional<std::int64_t>
find_id(Query& query, AccountId account, const PathKey& key, std::string_view name) {
  query.bind(0, account.value).bind(1, ByteView(key)).bind(2, name);
  std::optional<std::int64_t> id;
  if (query.step()) {
    id = query.integer(0);
  }
  query.reset();
  return id;
}

/// Row numbers are dense, so a set of them is a bit map.
class RowSet {
public:
  /// False when it was there already.
  bool insert(std::int64_t id) {
    const auto at = place_of_row(id);
    if (at >= bits_.size()) {
      bits_.resize(std::max(at + 1, bits_.size() * 2));
    }
    const bool added = !bits_[at];
    bits_[at] = true;
    return added;
  }

private:
  std::vector<bool> bits_;
};

/// Calls `visit(row, key, name)` for rows, which ascend.
template <class Visit>
void visit_rows(Connection& connection, const std::vector<std::int64_t>& rows, Visit&& visit) {
  Query query(connection, "select key, name from Paths where id = ?");
  for (const auto row : rows) {
    query.bind(0, row);
    if (!query.step() || query.blob(0).size() != PathKey{}.size() ||
        query.text(1).size() > model::StorePath::kNameLimit) {
      throw Error(Reaction::Corrupt,
                  "metadata.corrupt",
                  fmt::format("row {} is referred to and holds no path", row));
    }
    visit(row, query.blob(0), query.text(1));
    query.reset();
  }
}

void append_references(Query& query, std::int64_t id, std::vector<std::int64_t>& references) {
  query.bind(0, id);
  while (query.step()) {
    references.push_back(query.integer(0));
  }
  query.reset();
}

constexpr const char* kSelectReferences = "select reference from Refs where referrer = ?";

/// All of a path's row but its references.
model::PathInfo info_of_row(const Query& query, const model::StorePath& path) {
  model::PathInfo info{.path = path,
                       .deriver = {},
                       .nar_hash = {},
                       .references = {},
                       .signatures = {},
                       .content_address = {}};
  info.nar_hash = Hash(HashAlgorithm::Sha256, query.blob(1));
  info.nar_size = static_cast<std::uint64_t>(query.integer(2));
  info.registration_time = query.integer(3);
  info.ultimate = query.integer(4) != 0;
  if (!query.is_null(5)) {
    info.deriver = model::StorePath::parse(query.text(5));
  }
  if (!query.is_null(6)) {
    info.signatures = split_words(query.text(6));
  }
  info.content_address = query.text(7);
  return info;
}

} // namespace

bool RowNames::knows(std::int64_t row) const noexcept {
  const auto at = place_of_row(row);
  const auto page = at / kPage;
  return page < places_.size() && places_[page] && (*places_[page])[at % kPage] != 0;
}

void RowNames::set_place(std::int64_t row, std::size_t name_bytes) {
  const auto at = place_of_row(row);
  const auto page = at / kPage;
  if (page >= places_.size()) {
    places_.resize(page + 1);
  }
  if (!places_[page]) {
    places_[page] = std::make_unique<Page>();
  }
  (*places_[page])[at % kPage] = static_cast<std::uint32_t>(names_.size() + 1);
  names_.push_back(static_cast<char>(name_bytes));
  ++count_;
}

void RowNames::learn(std::int64_t row, const model::StorePath& path) {
  if (!knows(row) && count_ < kMost) {
    set_place(row, path.base_name().size());
    names_.append(path.base_name());
  }
}

void RowNames::learn(Connection& connection, const std::vector<std::int64_t>& rows) {
  if (count_ + rows.size() > kMost) {
    *this = RowNames();
  }
  std::vector<std::int64_t> unknown;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(unknown), [&](std::int64_t row) {
    return !knows(row);
  });
  visit_rows(connection, unknown, [&](std::int64_t row, ByteView key, std::string_view name) {
    set_place(row, model::StorePath::kHashLength + 1 + name.size());
    append_hash_part(key, names_);
    names_.push_back('-');
    names_.append(name);
  });
}

model::StorePath RowNames::path(std::int64_t row) const {
  const auto place = place_of_row(row);
  const std::size_t at = (*places_.at(place / kPage))[place % kPage] - 1;
  const auto size = static_cast<unsigned char>(names_[at]);
  return model::StorePath::parse(std::string_view(names_).substr(at + 1, size));
}

model::StorePaths
select_valid(Connection& connection, AccountId account, std::span<const model::StorePath> paths) {
  std::vector<bool> valid(paths.size());
  Query query(connection, kSelectId);
  std::size_t count = 0;
  for (const auto& [key, index] : in_key_order(paths)) {
    if (find_id(query, account, key, paths[index].name())) {
      valid[index] = true;
      ++count;
    }
  }
  model::StorePaths result;
  result.reserve(count);
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (valid[i]) {
      result.push_back(paths[i]);
    }
  }
  return result;
}

void select_infos(Connection& connection,
                  AccountId account,
                  std::span<const model::StorePath> paths,
                  RowNames& names,
                  const std::function<void(const model::PathInfo&)>& visit) {
  struct Found {
    model::PathInfo info;
    std::size_t first_reference;
    std::size_t last_reference;
  };

  std::vector<Found> found;
  std::vector<std::size_t> order(paths.size(), paths.size()); // index in the question → in `found`
  std::vector<std::int64_t> references;
  found.reserve(paths.size());
  {
    Query query(connection,
                "select id, nar_hash, nar_size, registration_time, ultimate, deriver, signatures, "
                "content_address from Paths where account = ? and key = ? and name = ?");
    Query refs(connection, kSelectReferences);
    for (const auto& [key, index] : in_key_order(paths)) {
      query.bind(0, account.value).bind(1, ByteView(key)).bind(2, paths[index].name());
      if (query.step()) {
        const auto row = query.integer(0);
        const auto first = references.size();
        append_references(refs, row, references);
        order[index] = found.size();
        found.push_back({info_of_row(query, paths[index]), first, references.size()});
        // Who asks about a closure meets it again among the references.
        names.learn(row, paths[index]);
      }
      query.reset();
    }
  }
  auto rows = references;
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  names.learn(connection, rows);
  for (const auto at : order) {
    if (at == paths.size()) {
      continue;
    }
    auto& [info, first, last] = found[at];
    info.references.reserve(last - first);
    for (auto reference = first; reference < last; ++reference) {
      info.references.push_back(names.path(references[reference]));
    }
    std::sort(info.references.begin(), info.references.end());
    visit(info);
    info.references = {};
  }
}

model::StorePaths
select_closure(Connection& connection, AccountId account, std::span<const model::StorePath> roots) {
  RowSet seen;
  std::vector<std::int64_t> rows;
  std::vector<std::int64_t> level;
  {
    Query query(connection, kSelectId);
    for (const auto& [key, index] : in_key_order(roots)) {
      const auto id = find_id(query, account, key, roots[index].name());
      if (!id) {
        throw_invalid_path(roots[index]);
      }
      if (seen.insert(*id)) {
        level.push_back(*id);
      }
    }
    Query refs(connection, kSelectReferences);
    std::vector<std::int64_t> references;
    while (!level.empty()) {
      std::sort(level.begin(), level.end());
      rows.insert(rows.end(), level.begin(), level.end());
      std::vector<std::int64_t> next;
      for (const auto id : level) {
        references.clear();
        append_references(refs, id, references);
        std::copy_if(references.begin(),
                     references.end(),
                     std::back_inserter(next),
                     [&](std::int64_t reference) { return seen.insert(reference); });
      }
      level = std::move(next);
    }
  }
  std::sort(rows.begin(), rows.end());
  model::StorePaths paths;
  paths.reserve(rows.size());
  visit_rows(connection, rows, [&](std::int64_t, ByteView key, std::string_view name) {
    paths.push_back(path_of(key, name));
  });
  std::sort(paths.begin(), paths.end());
  return paths;
}

model::StorePaths select_all(Connection& connection, AccountId account) {
  model::StorePaths paths;
  Query query(connection, "select key, name from Paths where account = ? order by key, name");
  query.bind(0, account.value);
  while (query.step()) {
    paths.push_back(path_of(query.blob(0), query.text(1)));
  }
  return paths;
}

std::uint64_t select_stored_bytes(Connection& connection, AccountId account) {
  Query query(connection, "select coalesce(sum(nar_size), 0) from Paths where account = ?");
  query.bind(0, account.value);
  query.step();
  return static_cast<std::uint64_t>(query.integer(0));
}

std::optional<model::StorePath>
select_by_key(Connection& connection, AccountId account, const PathKey& key) {
  Query query(connection, "select name from Paths where account = ? and key = ?");
  query.bind(0, account.value).bind(1, ByteView(key));
  if (!query.step()) {
    return std::nullopt;
  }
  return path_of(key, query.text(0));
}

model::StorePaths
select_named(Connection& connection, AccountId account, std::span<const std::string> names) {
  // One pass, as no index is worth its place for a question so rare.
  Query query(connection, "select key, name from Paths where account = ?");
  query.bind(0, account.value);
  model::StorePaths paths;
  while (query.step()) {
    const auto name = query.text(1);
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      paths.push_back(path_of(query.blob(0), name));
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

model::StorePaths
select_referrers(Connection& connection, AccountId account, const model::StorePath& path) {
  std::optional<std::int64_t> id;
  {
    Query query(connection, kSelectId);
    id = find_id(query, account, key_of(path), path.name());
  }
  model::StorePaths paths;
  if (id) {
    Query query(connection,
                "select key, name from Refs join Paths on Paths.id = Refs.referrer "
                "where reference = ?");
    query.bind(0, *id);
    while (query.step()) {
      paths.push_back(path_of(query.blob(0), query.text(1)));
    }
    std::sort(paths.begin(), paths.end());
  }
  return paths;
}

namespace {

struct Row {
  std::int64_t id = 0;
  bool fresh = false; ///< inserted just now
};

/// Inserts one row, or finds the one of a path that is valid already.
Row insert_row(Connection& connection,
               AccountId account,
               const model::PathInfo& info,
               const PathKey& key) {
  check_registrable(info);
  {
    Query query(connection, "select id, name from Paths where account = ? and key = ?");
    query.bind(0, account.value).bind(1, ByteView(key));
    if (query.step()) {
      if (query.text(1) != info.path.name()) {
        throw_hash_part_taken(info.path, path_of(key, query.text(1)));
      }
      return {query.integer(0), false};
    }
  }
  Query query(connection,
              "insert into Paths (account, key, name, nar_hash, nar_size, registration_time, "
              "ultimate, deriver, signatures, content_address) values (?,?,?,?,?,?,?,?,?,?)");
  const auto bind_text = [&](int index, std::string_view text) {
    if (text.empty()) {
      query.bind_null(index);
    } else {
      query.bind(index, text);
    }
  };
  query.bind(0, account.value).bind(1, ByteView(key)).bind(2, info.path.name());
  query.bind(3, info.nar_hash.bytes()).bind(4, static_cast<std::int64_t>(info.nar_size));
  query.bind(5, info.registration_time).bind(6, std::int64_t{info.ultimate ? 1 : 0});
  bind_text(7, info.deriver ? std::string_view(info.deriver->base_name()) : std::string_view());
  const std::string signatures = join_words(info.signatures);
  bind_text(8, signatures);
  bind_text(9, info.content_address);
  query.run();
  return {connection.last_row(), true};
}

void check_account(Connection& connection, AccountId account) {
  Query query(connection, "select 1 from Accounts where id = ?");
  query.bind(0, account.value);
  if (!query.step()) {
    throw_unknown_account(account);
  }
}

} // namespace

void insert_paths(Connection& connection,
                  AccountId account,
                  std::span<const model::PathInfo> infos) {
  check_account(connection, account);
  // In key order, so that the index grows page by page.
  std::vector<Asked> asked;
  asked.reserve(infos.size());
  for (std::size_t i = 0; i < infos.size(); ++i) {
    asked.push_back({key_of(infos[i].path), i});
  }
  const auto before = [](const Asked& a, const Asked& b) {
    return a.key < b.key;
  };
  std::stable_sort(asked.begin(), asked.end(), before);
  std::vector<Row> rows(infos.size());
  for (const auto& [key, index] : asked) {
    rows[index] = insert_row(connection, account, infos[index], key);
  }
  Query find(connection, kSelectId);
  const auto row_of = [&](const model::StorePath& path) -> std::optional<std::int64_t> {
    const auto key = key_of(path);
    const auto at = std::lower_bound(asked.begin(), asked.end(), Asked{key, 0}, before);
    if (at != asked.end() && infos[at->index].path == path) {
      return rows[at->index].id;
    }
    return find_id(find, account, key, path.name());
  };
  Query insert(connection, "insert or ignore into Refs (referrer, reference) values (?, ?)");
  for (const auto& [key, index] : asked) {
    if (!rows[index].fresh) {
      continue;
    }
    for (const auto& reference : infos[index].references) {
      const auto id = row_of(reference);
      if (!id) {
        throw_invalid_reference(infos[index].path, reference);
      }
      insert.bind(0, rows[index].id).bind(1, *id).run();
    }
  }
}

void update_signatures(Connection& connection,
                       AccountId account,
                       const model::StorePath& path,
                       std::span<const std::string> signatures) {
  const auto key = key_of(path);
  std::int64_t id = 0;
  std::vector<std::string> merged;
  {
    Query query(connection,
                "select id, signatures from Paths where account = ? and key = ? and name = ?");
    query.bind(0, account.value).bind(1, ByteView(key)).bind(2, path.name());
    if (!query.step()) {
      throw_invalid_path(path);
    }
    id = query.integer(0);
    merged = split_words(query.text(1));
  }
  merge_signatures(merged, signatures);
  const auto text = join_words(merged);
  Query(connection, "update Paths set signatures = ? where id = ?")
      .bind(0, std::string_view(text))
      .bind(1, id)
      .run();
}

void delete_paths(Connection& connection,
                  AccountId account,
                  std::span<const model::StorePath> paths) {
  std::vector<std::pair<std::int64_t, std::size_t>> rows;
  rows.reserve(paths.size());
  {
    Query find(connection, kSelectId);
    for (const auto& [key, index] : in_key_order(paths)) {
      if (const auto id = find_id(find, account, key, paths[index].name())) {
        rows.emplace_back(*id, index);
      }
    }
  }
  std::sort(rows.begin(), rows.end());
  Query forget(connection, "delete from Refs where referrer = ?");
  for (const auto& row : rows) {
    forget.bind(0, row.first).run();
  }
  Query remaining(connection,
                  "select key, name from Refs join Paths on Paths.id = Refs.referrer "
                  "where reference = ? limit 1");
  Query unrealise(connection, "delete from Realisations where path = ?");
  Query remove(connection, "delete from Paths where id = ?");
  for (const auto& row : rows) {
    remaining.bind(0, row.first);
    if (remaining.step()) {
      throw_referenced(paths[row.second], path_of(remaining.blob(0), remaining.text(1)));
    }
    remaining.reset();
    unrealise.bind(0, row.first).run();
    remove.bind(0, row.first).run();
  }
}

} // namespace nixbuild::store
