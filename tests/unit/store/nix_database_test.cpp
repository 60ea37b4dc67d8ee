#include "fixture.hpp"
#include "store/sqlite_connection.hpp"

#include <nixbuild/store/nix_database.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

model::PathInfo row_of(std::string_view name, const model::StorePaths& references = {}) {
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of(name));
  return {path_named(name),
          {},
          hash,
          120 + name.size(),
          references,
          1'700'000'000,
          true,
          {"key:sig"},
          {}};
}

} // namespace

TEST_CASE("nix database: exactly these paths, as Nix keeps them", "[store]") {
  auto base = row_of("base", {path_named("base")});
  base.content_address = "fixed:r:sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa";
  auto user = row_of("user", {path_named("base"), path_named("elsewhere")});
  user.deriver = path_named("user.drv");
  const std::vector<model::PathInfo> infos{user, base};
  const auto image = nix_database(model::StoreDir(), infos);
  CHECK(image.starts_with("SQLite format 3"));
  CHECK(nix_database(model::StoreDir(), infos) == image);

  const TemporaryDir folder;
  const auto file = folder.path() / "db.sqlite";
  std::ofstream(file, std::ios::binary) << image;
  Connection database(file, {}, false);
  Query paths(database,
              "select path, hash, narSize, deriver, ca, registrationTime, sigs from ValidPaths "
              "order by path");
  std::vector<std::string> rows;
  while (paths.step()) {
    CHECK(paths.integer(5) == 1);
    CHECK(paths.is_null(6));
    rows.push_back(std::string(paths.text(0)) + " " + std::string(paths.text(3)) + " " +
                   std::string(paths.text(4)) + " " + std::to_string(paths.integer(2)));
    CHECK(paths.text(1).starts_with("sha256:"));
    CHECK(paths.text(1).size() == 7 + 64);
  }
  const model::StoreDir dir;
  std::vector<std::string> expected{dir.print(base.path) + "  " + base.content_address + " 124",
                                    dir.print(user.path) + " " + dir.print(*user.deriver) +
                                        "  124"};
  std::sort(expected.begin(), expected.end());
  CHECK(rows == expected);
  Query references(database,
                   "select a.path, b.path from Refs join ValidPaths a on a.id = referrer "
                   "join ValidPaths b on b.id = reference order by a.path");
  std::size_t count = 0;
  while (references.step()) {
    CHECK(references.text(1) == dir.print(base.path));
    ++count;
  }
  CHECK(count == 2);
}

TEST_CASE("nix database: none of no paths", "[store]") {
  CHECK(nix_database(model::StoreDir(), {}).starts_with("SQLite format 3"));
}
