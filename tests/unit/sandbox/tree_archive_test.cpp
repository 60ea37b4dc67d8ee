#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

using namespace nixbuild;
using namespace nixbuild::sandbox;
namespace fs = std::filesystem;

namespace tree_archive_test {

namespace {

struct Folder {
  Folder() {
    std::string name = fs::temp_directory_path() / "tree-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
    fd.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }

  ~Folder() {
    std::error_code ignored;
    for (const auto& entry : fs::recursive_directory_iterator(path, ignored)) {
      if (entry.is_directory(ignored) && !entry.is_symlink(ignored)) {
        fs::permissions(entry, fs::perms::owner_all, ignored);
      }
    }
    fs::remove_all(path, ignored);
  }

  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  void file(const std::string& name, std::string_view contents, fs::perms mode) const {
    std::ofstream(path / name, std::ios::binary) << contents;
    fs::permissions(path / name, mode);
  }

  fs::path path;
  UniqueFd fd;
};

std::string
archive(const Folder& folder, std::string_view name, const ArchiveOptions& options = {}) {
  std::string bytes;
  StringSink sink(bytes);
  nar::Writer writer(sink);
  archive_tree(folder.fd.get(), name, writer, options);
  writer.finish();
  return bytes;
}

std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() + ": " + error.message();
  }
  return "none";
}

void unpack(const Folder& folder, const std::string& name, std::string_view bytes, bool read_only) {
  TreeUnpacker unpacker(folder.fd.get(), name, read_only);
  nar::Reader reader(unpacker);
  reader.feed(bytes_of(bytes));
  reader.expect_finished();
}

constexpr auto kPlain = fs::perms(0640);
constexpr auto kProgram = fs::perms(0710);

void make_tree(const Folder& folder) {
  fs::create_directories(folder.path / "t/sub/empty");
  folder.file("t/b", std::string(1'500'000, 'x'), kPlain);
  folder.file("t/B", "", kProgram);
  folder.file("t/a.b", "2", kPlain);
  folder.file("t/a", "1", kPlain);
  folder.file("t/\xff", "last", kPlain);
  fs::create_symlink("/nowhere/at all", folder.path / "t/sub/link");
}

} // namespace

TEST_CASE("tree archive: a tree comes back from its archive", "[sandbox][roundtrip]") {
  const Folder folder;
  make_tree(folder);
  const auto bytes = archive(folder, "t");
  for (const bool read_only : {false, true}) {
    const std::string name = read_only ? "locked" : "copy";
    unpack(folder, name, bytes, read_only);
    CHECK(archive(folder, name) == bytes);

    struct stat info {};

    REQUIRE(::lstat((folder.path / name / "B").c_str(), &info) == 0);
    CHECK((info.st_mode & 0555) == 0555);
    CHECK(((info.st_mode & 0200) == 0) == read_only);
    REQUIRE(::lstat((folder.path / name / "sub").c_str(), &info) == 0);
    CHECK(((info.st_mode & 0200) == 0) == read_only);
  }
  CHECK(fs::read_symlink(folder.path / "copy/sub/link") == "/nowhere/at all");
}

TEST_CASE("tree archive: single files and links are trees", "[sandbox][roundtrip]") {
  const Folder folder;
  folder.file("file", "contents", kProgram);
  fs::create_symlink("file", folder.path / "link");
  unpack(folder, "file2", archive(folder, "file"), true);
  unpack(folder, "link2", archive(folder, "link"), true);
  CHECK(archive(folder, "file2") == archive(folder, "file"));
  CHECK(fs::read_symlink(folder.path / "link2") == "file");
}

TEST_CASE("tree archive: only owner-execute counts, times and write bits do not", "[sandbox]") {
  const Folder folder;
  folder.file("x", "same", fs::perms(0644));
  const auto plain = archive(folder, "x");
  fs::permissions(folder.path / "x", fs::perms(0455));
  CHECK(archive(folder, "x") == plain);
  fs::permissions(folder.path / "x", fs::perms(0700));
  CHECK(archive(folder, "x") != plain);
}

TEST_CASE("tree archive: anything but files, folders and links is refused", "[sandbox][reject]") {
  const Folder folder;
  fs::create_directory(folder.path / "t");
  REQUIRE(::mkfifo((folder.path / "t/pipe").c_str(), 0600) == 0);
  ArchiveOptions options;
  options.shown_as = "/nix/store/x-out";
  CHECK(code_of([&] { archive(folder, "t", options); }) ==
        "archive.type: file '/nix/store/x-out/pipe' has an unsupported type");
  fs::remove(folder.path / "t/pipe");
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (folder.path / "t/socket").string().copy(address.sun_path, sizeof(address.sun_path) - 1);
  REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  CHECK(code_of([&] { archive(folder, "t", options); }) ==
        "archive.type: file '/nix/store/x-out/socket' has an unsupported type");
}

TEST_CASE("tree archive: owner, depth and number of nodes are checked", "[sandbox][reject]") {
  const Folder folder;
  make_tree(folder);
  ArchiveOptions options;
  options.owner = ::getuid();
  CHECK(code_of([&] { archive(folder, "t", options); }) == "none");
  options.owner = ::getuid() + 1;
  CHECK(code_of([&] { archive(folder, "t", options); }).starts_with("archive.owner"));
  options.owner.reset();
  options.limits.depth = 3;
  CHECK(code_of([&] { archive(folder, "t", options); }) == "none");
  options.limits.depth = 2;
  CHECK(code_of([&] { archive(folder, "t", options); }).starts_with("nar.depth"));
  options.limits.depth = 64;
  options.limits.entries = 9;
  CHECK(code_of([&] { archive(folder, "t", options); }) == "none");
  options.limits.entries = 8;
  CHECK(code_of([&] { archive(folder, "t", options); }).starts_with("nar.limit"));
  options.limits = {};
  options.limits.target_bytes = 5;
  CHECK(code_of([&] { archive(folder, "t", options); }).starts_with("nar.target"));
  CHECK(code_of([&] { archive(folder, "missing"); }).starts_with("archive.read"));
}

namespace {

/// Does something with the tree while it is being read.
class Meddler final : public nar::EventSink {
public:
  explicit Meddler(std::function<void()> at_entry) : at_entry_(std::move(at_entry)) {}

  void regular(bool, std::uint64_t) override {
    if (at_file) {
      at_file();
    }
  }

  void contents(ByteView) override {}

  void regular_end() override {}

  void symlink(std::string_view) override {}

  void directory() override {}

  void entry(std::string_view) override { at_entry_(); }

  void directory_end() override {}

  std::function<void()> at_file;

private:
  std::function<void()> at_entry_;
};

} // namespace

TEST_CASE("tree archive: a tree that changes is noticed", "[sandbox][reject]") {
  const Folder folder;
  fs::create_directory(folder.path / "t");
  folder.file("t/a", "contents", kPlain);
  Meddler shrink([] {});
  shrink.at_file = [&] {
    fs::resize_file(folder.path / "t/a", 2);
  };
  CHECK(code_of([&] {
          archive_tree(folder.fd.get(), "t", shrink, {});
        }).starts_with("archive.changed"));
  Meddler remove([&] { fs::remove(folder.path / "t/a"); });
  CHECK(
      code_of([&] { archive_tree(folder.fd.get(), "t", remove, {}); }).starts_with("archive.read"));
}

TEST_CASE("tree unpacker: nothing that exists is touched or followed", "[sandbox][reject]") {
  const Folder folder;
  folder.file("victim", "old", kPlain);
  fs::create_symlink("victim", folder.path / "link");
  folder.file("source", "new", kPlain);
  const auto file = archive(folder, "source");
  CHECK(code_of([&] { unpack(folder, "victim", file, false); }).starts_with("unpack.exists"));
  CHECK(code_of([&] { unpack(folder, "link", file, false); }).starts_with("unpack.exists"));
  fs::create_directory(folder.path / "d");
  fs::create_symlink("d", folder.path / "dlink");
  const auto directory = archive(folder, "d");
  CHECK(code_of([&] { unpack(folder, "dlink", directory, false); }).starts_with("unpack.exists"));
  CHECK(code_of([&] { unpack(folder, "d", directory, false); }).starts_with("unpack.exists"));
  std::ifstream in(folder.path / "victim");
  std::string contents;
  in >> contents;
  CHECK(contents == "old");
  CHECK(code_of([&] { unpack(folder, "no/such", file, false); }).starts_with("unpack.write"));
}

TEST_CASE("tree unpacker: events out of order are refused", "[sandbox][reject]") {
  const Folder folder;
  TreeUnpacker unpacker(folder.fd.get(), "t");
  CHECK(code_of([&] { unpacker.contents({}); }).starts_with("unpack.events"));
  CHECK(code_of([&] { unpacker.entry("x"); }).starts_with("unpack.events"));
  unpacker.directory();
  CHECK(code_of([&] { unpacker.regular(false, 0); }).starts_with("unpack.events"));
  CHECK(code_of([&] { unpacker.entry("../x"); }).starts_with("unpack.events"));
  unpacker.directory_end();
  CHECK(code_of([&] { unpacker.directory_end(); }).starts_with("unpack.events"));
}

} // namespace tree_archive_test
