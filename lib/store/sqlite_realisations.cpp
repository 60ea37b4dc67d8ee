#include "sqlite_realisations.hpp"

#include "metadata_rules.hpp"
#include "path_key.hpp"

#include <string>
#include <utility>

namespace nixbuild::store {

namespace {

std::int64_t row_of(Connection& connection, AccountId account, const model::StorePath& path) {
  const auto key = key_of(path);
  Query query(connection, "select id from Paths where account = ? and key = ? and name = ?");
  query.bind(0, account.value).bind(1, ByteView(key)).bind(2, path.name());
  if (!query.step()) {
    throw_invalid_path(path);
  }
  return query.integer(0);
}

void insert(Connection& connection, AccountId account, const StoredRealisation& stored) {
  const auto& [key, realisation] = stored;
  const auto row = row_of(connection, account, realisation.path);
  auto signatures = realisation.signatures;
  if (auto known = select_realisation(connection, account, key)) {
    if (known->path != realisation.path) {
      return;
    }
    signatures = std::move(known->signatures);
    merge_signatures(signatures, realisation.signatures);
  }
  const auto text = join_words(signatures);
  Query(connection,
        "insert or replace into Realisations (account, derivation, output, self_references, "
        "path, signatures) values (?, ?, ?, ?, ?, ?)")
      .bind(0, account.value)
      .bind(1, std::string_view(key.derivation))
      .bind(2, std::string_view(key.output))
      .bind(3, static_cast<std::int64_t>(key.self_references))
      .bind(4, row)
      .bind(5, std::string_view(text))
      .run();
}

} // namespace

void insert_realisations(Connection& connection,
                         AccountId account,
                         std::span<const StoredRealisation> realisations) {
  for (const auto& stored : realisations) {
    insert(connection, account, stored);
  }
}

std::optional<model::Realisation>
select_realisation(Connection& connection, AccountId account, const RealisationKey& key) {
  Query query(connection,
              "select Paths.key, name, Realisations.signatures from Realisations join Paths on "
              "Paths.id = Realisations.path where Realisations.account = ? and derivation = ? and "
              "output = ? and self_references = ?");
  query.bind(0, account.value)
      .bind(1, std::string_view(key.derivation))
      .bind(2, std::string_view(key.output))
      .bind(3, static_cast<std::int64_t>(key.self_references));
  if (!query.step()) {
    return std::nullopt;
  }
  return model::Realisation{path_of(query.blob(0), query.text(1)), split_words(query.text(2))};
}

void delete_realisations_of(Connection& connection, AccountId account) {
  Query(connection, "delete from Realisations where account = ?").bind(0, account.value).run();
}

} // namespace nixbuild::store
