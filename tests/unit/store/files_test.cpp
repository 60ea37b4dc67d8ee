#include "fixture.hpp"

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/mount.h>

#include <fstream>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_below(const fs::path& dir, std::string_view extension) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    if (entry.is_regular_file() && entry.path().extension() == extension) {
      found.push_back(entry.path());
    }
  }
  return found;
}

void touch(const fs::path& path) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << "left";
}

/// A file system of one megabyte, where one may be mounted.
class SmallDisk {
public:
  SmallDisk() : mounted_(::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, "size=1m") == 0) {}

  ~SmallDisk() {
    if (mounted_) {
      ::umount2(dir_.path().c_str(), MNT_DETACH);
    }
  }

  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  [[nodiscard]] const fs::path& path() const noexcept { return dir_.path(); }

  explicit operator bool() const noexcept { return mounted_; }

private:
  TemporaryDir dir_;
  bool mounted_;
};

} // namespace

TEST_CASE("file segments: one process at a time", "[store][reject]") {
  const TemporaryDir dir;
  auto first = open_file_segments(dir.path());
  CHECK(code_of([&] { static_cast<void>(open_file_segments(dir.path())); }) == "store.locked");
  first.reset();
  CHECK(code_of([&] { static_cast<void>(open_file_segments(dir.path())); }).empty());
}

TEST_CASE("file segments: what a killed process left is removed at the start", "[store][fault]") {
  Ports ports(Kind::Files);
  const auto nar = nar_of_tree(100, "x");
  add(*ports.store, ports.account, request_for(path_named("kept"), nar), nar);
  ports.close();
  touch(ports.dir.path() / "drafts" / "7.meta");
  touch(ports.dir.path() / "drafts" / "8.data");
  const std::string lone(52, '0');
  touch(ports.dir.path() / "segments" / "00" / (lone + ".data"));
  ports.open();
  CHECK(ports.drafts() == 0);
  CHECK(ports.segment_count() == 1);
  CHECK(files_below(ports.dir.path(), ".data").size() == 1);
  CHECK(ports.store->verify(ports.account, {}).empty());
}

TEST_CASE("file segments: an empty data blob has no file", "[store]") {
  Ports ports(Kind::Files);
  add_path(ports, "small");
  CHECK(files_below(ports.dir.path(), ".data").empty());
  CHECK(files_below(ports.dir.path(), ".meta").size() == 1);
}

TEST_CASE("file segments: verify finds every flipped byte of the contents", "[store][fault]") {
  Ports ports(Kind::Files);
  const auto nar = nar_of_tree(12, "some text");
  const auto info = add(*ports.store, ports.account, request_for(path_named("x"), nar), nar);
  std::size_t noticed = 0;
  for (const auto& extension : {".meta", ".data"}) {
    const auto file = files_below(ports.dir.path() / "segments", extension).at(0);
    const auto size = fs::file_size(file);
    for (std::uintmax_t offset = 0; offset < size; offset += size / 60 + 1) {
      std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(static_cast<std::streamoff>(offset));
      const auto before = static_cast<char>(stream.get());
      const auto flip = [&](char value) {
        stream.seekp(static_cast<std::streamoff>(offset));
        stream.put(value);
        stream.flush();
      };
      flip(static_cast<char>(before ^ 0x5a));
      // Padding may change unnoticed; nothing may crash.
      noticed += ports.store->verify(ports.account, {}).size();
      flip(before);
    }
  }
  CHECK(noticed > 20);
  CHECK(ports.store->verify(ports.account, {&info.path, 1}).empty());
}

TEST_CASE("file segments: many sealed before one commit", "[store]") {
  Ports ports(Kind::Files);
  std::vector<model::PathInfo> infos;
  for (int i = 0; i < 200; ++i) {
    const auto nar =
        nar_of_file("file " + std::to_string(i) + std::string(i % 2 == 0 ? 0 : 5000, 'x'));
    auto import =
        ports.store->begin_import(ports.account, request_for(path_named(std::to_string(i)), nar));
    feed(import, nar);
    infos.push_back(import.seal());
  }
  ports.store->commit(ports.account, infos);
  CHECK(ports.drafts() == 0);
  ports.reopen();
  CHECK(ports.db->all_paths(ports.account).size() == 200);
  CHECK(ports.store->verify(ports.account, {}).empty());
}

TEST_CASE("file segments: a full disk is reported and leaves nothing", "[store][fault]") {
  const SmallDisk disk;
  if (!disk) {
    WARN("skipped: no tmpfs can be mounted here");
    return;
  }
  const auto db = make_memory_metadata();
  const auto account = db->ensure_account("a");
  const ManualClock clock;
  {
    const auto segments = open_file_segments(disk.path());
    Store store(*db, *segments, clock, model::StoreDir());
    const auto add_file = [&](std::size_t size) {
      const auto nar = nar_of_file(std::string(size, 'x'));
      const auto path = path_named(std::to_string(size));
      return code_of([&] { add(store, account, request_for(path, nar), nar); });
    };
    // Met by the writing thread, by the caller, and by many small ones until nothing fits.
    CHECK(add_file(9'000'000) == "store.disk-full");
    CHECK(add_file(600'000).empty());
    CHECK(add_file(500'000) == "store.disk-full");
    std::string code;
    for (int i = 0; i < 1000 && code.empty(); ++i) {
      const auto nar = nar_of_tree(10, "file " + std::to_string(i));
      const auto path = path_named(std::to_string(i));
      code = code_of([&] { add(store, account, request_for(path, nar), nar); });
    }
    CHECK(code == "store.disk-full");
    CHECK(store.verify(account, {}).empty());
    CHECK(db->all_paths(account).size() > 2);
    // Room again: it goes on.
    store.collect_garbage(account, {});
    const auto nar = nar_of_tree(10, "after");
    add(store, account, request_for(path_named("after"), nar), nar);
    CHECK(store.verify(account, {}).empty());
  }
  CHECK(fs::is_empty(disk.path() / "drafts"));
}

TEST_CASE("sqlite: a full disk is reported and leaves nothing", "[store][fault]") {
  const SmallDisk disk;
  if (!disk) {
    WARN("skipped: no tmpfs can be mounted here");
    return;
  }
  const auto db = open_sqlite_metadata(disk.path() / "db");
  const auto account = db->ensure_account("a");
  std::string code;
  std::size_t registered = 0;
  for (; registered < 10'000 && code.empty(); ++registered) {
    auto info = info_for(std::to_string(registered));
    info.content_address = std::string(3000, 'x');
    code = code_of([&] { db->register_paths(account, {&info, 1}); });
  }
  CHECK(code == "store.disk-full");
  CHECK(db->all_paths(account).size() == registered - 1);
}

TEST_CASE("logs: finished ones go when they are old", "[store]") {
  const bool files = GENERATE(false, true);
  const TemporaryDir dir;
  auto logs = files ? open_file_logs(dir.path()) : make_memory_logs();
  for (const std::int64_t build : {1, 2, 5000}) {
    logs->append(build, bytes_of("text"));
  }
  logs->finish(2);
  logs->finish(5000);
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  CHECK(logs->remove_finished_before(now - std::chrono::hours(1)) == 0);
  CHECK(logs->read(2, 0, 10) == "text");
  CHECK(logs->remove_finished_before(now + std::chrono::hours(1)) == 2);
  CHECK_FALSE(logs->read(2, 0, 10));
  CHECK_FALSE(logs->finished(5000));
  logs->append(1, bytes_of(" and more"));
  CHECK(logs->read(1, 0, 20) == "text and more");
  // Its folder went away with the only log in it.
  logs->append(5001, bytes_of("new"));
  CHECK(logs->read(5001, 0, 10) == "new");
}

TEST_CASE("logs: grow, are read at any offset, and stay when finished", "[store][roundtrip]") {
  const TemporaryDir dir;
  const bool files = GENERATE(false, true);
  auto logs = files ? open_file_logs(dir.path()) : make_memory_logs();
  CHECK_FALSE(logs->read(1, 0, 100));
  CHECK(logs->size(1) == 0);
  logs->append(1, bytes_of("first "));
  logs->append(1, bytes_of("second"));
  CHECK(logs->read(1, 0, 100) == "first second");
  CHECK(logs->read(1, 6, 3) == "sec");
  CHECK(logs->read(1, 12, 100) == "");
  CHECK(logs->read(1, 1000, 100) == "");
  CHECK_FALSE(logs->finished(1));
  std::string text;
  for (int i = 0; text.size() < 900'000; ++i) {
    text += "line " + std::to_string(i) + "\n";
  }
  logs->append(2, bytes_of(text));
  for (const bool finished : {false, true}) {
    if (finished) {
      logs->finish(2);
      logs->finish(2);
    }
    CHECK(logs->finished(2) == finished);
    CHECK(logs->size(2) == (finished ? 0 : text.size()));
    std::string whole;
    for (;;) {
      const auto part = logs->read(2, whole.size(), 100'000);
      REQUIRE(part);
      if (part->empty()) {
        break;
      }
      whole += *part;
    }
    CHECK(whole == text);
    CHECK(logs->read(2, 262'143, 2)->substr(0, 1) == text.substr(262'143, 1));
  }
  CHECK(code_of([&] { logs->append(2, bytes_of("more")); }) == "log.finished");
  logs->finish(3);
  CHECK(logs->finished(3));
  CHECK(logs->read(3, 0, 10) == "");
  if (files) {
    logs = open_file_logs(dir.path());
    logs->append(1, bytes_of(", third"));
    CHECK(logs->read(1, 0, 100) == "first second, third");
    CHECK(logs->finished(2));
    CHECK(files_below(dir.path(), ".zst").size() == 2);
    CHECK(files_below(dir.path(), ".log").size() == 1);
    CHECK(fs::file_size(dir.path() / "0" / "2.log.zst") < text.size() / 4);
  }
}

TEST_CASE("logs: damaged archives are refused", "[store][reject]") {
  const TemporaryDir dir;
  const auto logs = open_file_logs(dir.path());
  logs->append(1, bytes_of(std::string(1000, 'x')));
  logs->finish(1);
  const auto path = dir.path() / "0" / "1.log.zst";
  const auto size = fs::file_size(path);
  const auto content = [&] {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  const auto write = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  };
  for (std::size_t cut = 0; cut < size; ++cut) {
    write(content.substr(0, cut));
    CHECK_FALSE(code_of([&] { static_cast<void>(logs->read(1, 0, 10)); }).empty());
  }
  write("x" + content.substr(1));
  CHECK(code_of([&] { static_cast<void>(logs->read(1, 0, 10)); }) == "log.corrupt");
  write(content);
  CHECK(logs->read(1, 0, 3) == "xxx");
}
