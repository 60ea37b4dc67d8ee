#include "server/export_order.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/store/memory.hpp>

#include <catch2/catch.hpp>

#include <algorithm>

namespace export_order_test {

using namespace nixbuild;

namespace {

model::StorePath path_of(char letter) {
  return model::StorePath(Bytes(20, static_cast<std::uint8_t>(letter)), std::string(1, letter));
}

} // namespace

TEST_CASE("export order: each path stands behind what it refers to, once", "[server]") {
  auto db = store::make_memory_metadata();
  const auto account = db->ensure_account("a");
  std::vector<model::PathInfo> infos;
  for (const char letter : {'d', 'c', 'b', 'a'}) {
    model::PathInfo info{path_of(letter), {}, {}, 120, {}, 0, false, {}, {}};
    info.nar_hash = hash_of(HashAlgorithm::Sha256, {});
    info.references = {info.path}; // itself
    if (letter != 'd') {
      info.references.push_back(path_of(static_cast<char>(letter + 1)));
    }
    model::sort_unique(info.references);
    infos.push_back(std::move(info));
  }
  db->register_paths(account, infos);
  const model::StoreDir dir;
  const model::StorePaths asked = {path_of('a'), path_of('d'), path_of('a'), path_of('b')};
  auto ordered = server::references_first(*db, dir, account, asked);
  REQUIRE(ordered.size() == 3);
  const auto place = [&](char letter) {
    return std::find(ordered.begin(), ordered.end(), path_of(letter)) - ordered.begin();
  };
  CHECK(place('b') < place('a'));
  const model::StorePaths all = {path_of('a'), path_of('b'), path_of('c'), path_of('d')};
  ordered = server::references_first(*db, dir, account, all);
  CHECK(ordered == model::StorePaths(all.rbegin(), all.rend()));
  try {
    static_cast<void>(server::references_first(*db, dir, account, {path_of('a'), path_of('x')}));
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "store.invalid-path");
    CHECK(error.message().find(path_of('x').base_name()) != std::string::npos);
  }
}

} // namespace export_order_test
