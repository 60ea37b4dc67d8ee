#include "fixture.hpp"

#include <nixbuild/model/derivation.hpp>
#include <nixbuild/store/derivation_file.hpp>
#include <nixbuild/store/derivation_hashes.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <map>
#include <vector>

namespace derivation_hashes_test {

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;
using model::Derivation;
using model::StorePath;

namespace {

const model::StoreDir kDir;

/// Counts what is read.
class CountingSegments final : public SegmentStore {
public:
  explicit CountingSegments(std::atomic<int>& opened) : opened_(opened) {}

  std::unique_ptr<SegmentDraft> begin() override { return inner_->begin(); }

  std::optional<OpenSegment> open(const Hash& nar_hash) override {
    ++opened_;
    return inner_->open(nar_hash);
  }

  bool contains(const Hash& nar_hash) override { return inner_->contains(nar_hash); }

  void sync(std::span<const Hash> nar_hashes) override { inner_->sync(nar_hashes); }

  void visit(const std::function<void(const Hash&)>& visit) override { inner_->visit(visit); }

  void remove(const Hash& nar_hash) override { inner_->remove(nar_hash); }

private:
  std::atomic<int>& opened_;
  std::unique_ptr<SegmentStore> inner_ = make_memory_segments();
};

/// Derivations that know each other, in a store or not.
struct Shelf {
  std::atomic<int> opened{0};
  ManualClock clock;
  std::unique_ptr<MetadataDb> db = make_memory_metadata();
  CountingSegments segments{opened};
  std::unique_ptr<Store> store = std::make_unique<Store>(*db, segments, clock, kDir);
  AccountId account = db->ensure_account("default");
  std::map<StorePath, Derivation> all;

  mutable std::map<StorePath, model::HashModulo> hashes;

  [[nodiscard]] model::HashModulo hash_of_input(const StorePath& path) const {
    const auto known = hashes.find(path);
    if (known != hashes.end()) {
      return known->second;
    }
    const auto of_input = [this](const StorePath& input) {
      return hash_of_input(input);
    };
    return hashes[path] = model::hash_modulo(kDir, all.at(path), false, of_input);
  }

  /// A derivation of one output, as Nix would write it.
  [[nodiscard]] Derivation honest(const std::string& name, const model::StorePaths& inputs) const {
    Derivation derivation;
    derivation.outputs["out"];
    derivation.platform = "x86_64-linux";
    derivation.builder = "/bin/sh";
    derivation.environment = {{"name", name}, {"out", ""}};
    for (const auto& input : inputs) {
      derivation.input_derivations[input] = {"out"};
    }
    const auto paths = model::input_addressed_paths(
        kDir, name, derivation, [this](const StorePath& input) { return hash_of_input(input); });
    derivation.outputs["out"].path = paths.at("out");
    derivation.environment["out"] = kDir.print(paths.at("out"));
    return derivation;
  }

  /// Its contents are in the store; nothing is registered.
  model::PathInfo seal(const std::string& name, const Derivation& derivation) {
    const auto path = model::derivation_path(kDir, name, derivation);
    all.emplace(path, derivation);
    model::StorePaths references;
    for (const auto& [input, outputs] : derivation.input_derivations) {
      references.push_back(input);
    }
    const auto nar = nar_of_file(model::print_derivation(kDir, derivation));
    auto import = store->begin_import(account, request_for(path, nar, references));
    REQUIRE(feed(import, nar) == nar.size());
    return import.seal();
  }

  std::string commit(const std::vector<model::PathInfo>& infos) {
    try {
      store->commit(account, infos);
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  }

  StorePath put(const std::string& name, const Derivation& derivation) {
    const auto info = seal(name, derivation);
    REQUIRE(commit({info}).empty());
    return info.path;
  }
};

Derivation forged(Derivation derivation) {
  derivation.outputs["out"].path = path_named("of-somebody-else");
  derivation.environment["out"] = kDir.print(path_named("of-somebody-else"));
  return derivation;
}

} // namespace

TEST_CASE("derivation hashes: what names other outputs than its own is not registered",
          "[store][reject]") {
  Shelf shelf;
  const auto bottom = shelf.put("bottom", shelf.honest("bottom", {}));
  const auto top = shelf.honest("top", {bottom});
  const auto wrong = shelf.seal("top", forged(top));
  const auto said = shelf.commit({wrong});
  CHECK(said.find("derivation '" + kDir.print(wrong.path) + "' has incorrect output path") == 0);
  CHECK(said.find("should be '" + kDir.print(*top.outputs.at("out").path)) != std::string::npos);
  CHECK(shelf.db->valid_paths(shelf.account, {&wrong.path, 1}).empty());
  CHECK(shelf.commit({shelf.seal("top", top)}).empty());

  // In one transaction with what is behind it, in any order.
  const auto deep = shelf.seal("deep", shelf.honest("deep", {}));
  const auto over = shelf.honest("over", {deep.path});
  CHECK(shelf.commit({shelf.seal("over", forged(over)), deep}).find("should be") !=
        std::string::npos);
  CHECK(shelf.commit({shelf.seal("over", over), shelf.seal("deep", shelf.all.at(deep.path))})
            .empty());
}

TEST_CASE("derivation hashes: what cannot be computed is let in, and known as that", "[store]") {
  Shelf shelf;
  const auto bottom = shelf.honest("bottom", {});
  const auto behind = model::derivation_path(kDir, "bottom", bottom);
  shelf.all.emplace(behind, bottom);
  const auto wrong = forged(shelf.honest("top", {behind}));
  // It does not refer to what it is made from, which is not there.
  const auto nar = nar_of_file(model::print_derivation(kDir, wrong));
  const auto path = model::derivation_path(kDir, "top", wrong);
  auto import = shelf.store->begin_import(shelf.account, request_for(path, nar));
  REQUIRE(feed(import, nar) == nar.size());
  REQUIRE(shelf.commit({import.seal()}).empty());
  {
    DerivationHashes hashes(*shelf.store, shelf.account);
    CHECK_FALSE(hashes.outputs_follow(path, wrong));
  }
  shelf.put("bottom", bottom);
  DerivationHashes hashes(*shelf.store, shelf.account);
  CHECK_THROWS_AS(hashes.outputs_follow(path, wrong), Error);
  CHECK(hashes.outputs_follow(behind, bottom));

  const auto text = nar_of_file("not a derivation");
  auto other = shelf.store->begin_import(shelf.account, request_for(path_named("t.drv"), text));
  REQUIRE(feed(other, text) == text.size());
  CHECK(shelf.commit({other.seal()}).empty());
}

TEST_CASE("derivation hashes: a closure is read once, however it comes", "[store]") {
  constexpr int kMany = 300;
  Shelf shelf;
  std::vector<StorePath> paths;
  for (int i = 0; i < kMany; ++i) {
    const auto name = "d" + std::to_string(i);
    const auto back = static_cast<std::ptrdiff_t>(std::min<std::size_t>(paths.size(), 3));
    paths.push_back(shelf.put(name, shelf.honest(name, {paths.end() - back, paths.end()})));
  }
  CHECK(shelf.opened.load() == kMany); // for the comparison of each
  const auto ask = [&] {
    DerivationHashes hashes(*shelf.store, shelf.account);
    shelf.opened = 0;
    CHECK(hashes.outputs_follow(paths.back(), shelf.all.at(paths.back())));
    return shelf.opened.load();
  };
  CHECK(ask() == 0);
  // After a restart all are read, once.
  shelf.store = std::make_unique<Store>(*shelf.db, shelf.segments, shelf.clock, kDir);
  CHECK(ask() == kMany - 1);
  CHECK(ask() == 0);
}

TEST_CASE("derivation hashes: what a file says under a name that is not its own holds nowhere else",
          "[store]") {
  Shelf shelf;
  const auto other = shelf.db->ensure_account("other");
  const auto honest = shelf.honest("bottom", {});
  const auto path = model::derivation_path(kDir, "bottom", honest);
  shelf.all.emplace(path, honest);
  // One account puts another text under the name.
  auto lie = honest;
  lie.environment["name"] = "lie";
  const auto nar = nar_of_file(model::print_derivation(kDir, lie));
  auto import = shelf.store->begin_import(other, request_for(path, nar));
  REQUIRE(feed(import, nar) == nar.size());
  const auto info = import.seal();
  shelf.db->register_paths(other, {&info, 1});
  const auto top = shelf.honest("top", {path});
  const auto top_path = model::derivation_path(kDir, "top", top);
  DerivationHashes of_other(*shelf.store, other);
  CHECK_THROWS_AS(of_other.outputs_follow(top_path, top), Error);
  shelf.put("bottom", honest);
  DerivationHashes hashes(*shelf.store, shelf.account);
  CHECK(hashes.outputs_follow(top_path, top));
}

} // namespace derivation_hashes_test
