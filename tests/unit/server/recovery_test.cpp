#include "support/fake_executor.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/server/recovery.hpp>
#include <nixbuild/store/files.hpp>
#include <nixbuild/store/sqlite.hpp>

#include <catch2/catch.hpp>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace recovery_test {

using namespace nixbuild;
namespace fs = std::filesystem;

namespace {

class TestClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override { return WallTime(std::chrono::seconds(1)); }

  [[nodiscard]] MonotonicTime monotonic() const override { return {}; }
};

class Folder {
public:
  Folder() : path_((fs::temp_directory_path() / "nixbuild-test-XXXXXX").string()) {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
  }

  ~Folder() { fs::remove_all(path_); }

  [[nodiscard]] const std::string& path() const { return path_; }

private:
  std::string path_;
};

struct OpenState {
  explicit OpenState(const std::string& dir)
      : db(store::open_sqlite_metadata(dir + "/db")),
        segments(store::open_file_segments(dir + "/s")),
        store(*db, *segments, clock, model::StoreDir()), account(db->ensure_account("default")) {}

  model::StorePath add(const std::string& name, const model::StorePaths& references = {}) {
    const auto digest = hash_of(HashAlgorithm::Sha1, bytes_of(name));
    store::ImportRequest request{
        model::StorePath(digest.bytes(), name), {}, {}, {}, references, 0, false, {}, {}, {}};
    const auto path = request.path;
    auto import = store.begin_import(account, std::move(request));
    import.feed(bytes_of(tests::nar_of_file(name + std::string(5000, 'x'))));
    const auto info = import.seal();
    store.commit(account, {&info, 1});
    return path;
  }

  /// The files that hold the contents of a path.
  std::vector<fs::path> files_of(const std::string& dir, const model::StorePath& path) {
    const auto hash = nix32_encode(db->path_info(account, path)->nar_hash.bytes());
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(dir + "/s")) {
      if (entry.is_regular_file() && entry.path().filename().string().find(hash) == 0) {
        found.push_back(entry.path());
      }
    }
    REQUIRE_FALSE(found.empty());
    return found;
  }

  TestClock clock;
  std::unique_ptr<store::MetadataDb> db;
  std::unique_ptr<store::SegmentStore> segments;
  store::Store store;
  store::AccountId account;
};

} // namespace

TEST_CASE("recovery: nothing happens while the machine runs on", "[server]") {
  const Folder folder;
  NullLog log;
  OpenState state(folder.path());
  const auto path = state.add("a");
  CHECK(server::recover_state(folder.path(), state.store, *state.segments, log, "boot-1") == 0);
  for (const auto& file : state.files_of(folder.path(), path)) {
    fs::remove(file);
  }
  CHECK(server::recover_state(folder.path(), state.store, *state.segments, log, "boot-1") == 0);
}

TEST_CASE("recovery: after a power failure lost contents are forgotten with their referrers",
          "[server][fault]") {
  const Folder folder;
  NullLog log;
  OpenState state(folder.path());
  server::recover_state(folder.path(), state.store, *state.segments, log, "boot-1");
  const auto kept = state.add("kept");
  const auto lost = state.add("lost", {kept});
  const auto referrer = state.add("referrer", {lost});
  const auto zeroed = state.add("zeroed");
  for (const auto& file : state.files_of(folder.path(), lost)) {
    fs::remove(file);
  }
  for (const auto& file : state.files_of(folder.path(), zeroed)) {
    const auto size = fs::file_size(file);
    fs::permissions(file, fs::perms::owner_all);
    fs::resize_file(file, 0);
    fs::resize_file(file, size);
  }
  CHECK(server::recover_state(folder.path(), state.store, *state.segments, log, "boot-2") == 3);
  CHECK(state.db->all_paths(state.account) == model::StorePaths{kept});
  CHECK(state.store.verify(state.account, {}).empty());
  // What was forgotten can come again.
  state.add("lost", {kept});
  state.add("zeroed");
  CHECK(state.store.verify(state.account, {}).empty());
}

TEST_CASE("recovery: what was synced is not read again", "[server]") {
  const Folder folder;
  NullLog log;
  OpenState state(folder.path());
  server::recover_state(folder.path(), state.store, *state.segments, log, "boot-1");
  const auto path = state.add("a");
  for (const auto& file : state.files_of(folder.path(), path)) {
    fs::permissions(file, fs::perms::owner_all);
    std::ofstream(file, std::ios::in | std::ios::binary).write("x", 1);
    fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  server::sync_state(folder.path());
  // Damage that a power failure cannot have done is the business of `path verify`.
  CHECK(server::recover_state(folder.path(), state.store, *state.segments, log, "boot-2") == 0);
  CHECK(state.db->all_paths(state.account).size() == 1);
}

} // namespace recovery_test
