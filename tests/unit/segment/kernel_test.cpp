// Composed disks as the EROFS of the running kernel and of erofs-utils see them.

#include "unit/segment/segment_blobs.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/compose.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

using namespace nixbuild;
using test::FileTree;
namespace fs = std::filesystem;

namespace {

bool required(std::string_view what) {
  const char* list = std::getenv("NIXBUILD_TEST_REQUIRE");
  return list != nullptr && std::string_view(list).find(what) != std::string_view::npos;
}

int shell(const std::string& command) {
  return std::system(command.c_str());
}

class Folder {
public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "segment-test-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
    fs::create_directory(path_ / "mnt");
  }

  ~Folder() {
    if (mounted_) {
      (void)shell("umount '" + mount_point().string() + "'");
    }
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] fs::path path() const { return path_; }

  [[nodiscard]] fs::path image() const { return path_ / "disk.img"; }

  [[nodiscard]] fs::path mount_point() const { return path_ / "mnt"; }

  /// False where this machine cannot mount at all.
  bool mount() {
    mounted_ = shell("mount -t erofs -o loop,ro '" + image().string() + "' '" +
                     mount_point().string() + "' 2>'" + (path_ / "log").string() + "'") == 0;
    if (!mounted_) {
      std::ifstream log(path_ / "log");
      const std::string why{std::istreambuf_iterator<char>(log), {}};
      if (required("mount")) {
        FAIL("mounting is required and failed: " << why);
      }
      WARN("skipped: cannot mount here: " << why);
    }
    return mounted_;
  }

private:
  fs::path path_;
  bool mounted_ = false;
};

std::string contents_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct stat status_of(const fs::path& path) {
  struct stat status {};

  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status;
}

/// Whether owner, times and links are those of the disk or of a copy of what is on it.
enum class Whose : std::uint8_t { Disk, Copy };

void compare(const fs::path& path, const FileTree& expected, Whose whose = Whose::Disk) {
  const auto status = status_of(path);
  if (whose == Whose::Disk) {
    CHECK(status.st_uid == 0);
    CHECK(status.st_gid == 0);
    CHECK(status.st_mtime == 1);
    CHECK(status.st_mtim.tv_nsec == 0);
  }
  switch (expected.kind) {
  case FileTree::Kind::Regular:
  case FileTree::Kind::Executable:
    REQUIRE(status.st_mode == (expected.kind == FileTree::Kind::Regular ? 0100444U : 0100555U));
    CHECK(status.st_nlink == 1);
    REQUIRE(contents_of(path) == expected.bytes);
    return;
  case FileTree::Kind::Symlink: {
    REQUIRE(status.st_mode == 0120777);
    CHECK(status.st_nlink == 1);
    std::string target(5000, '\0');
    const auto size = ::readlink(path.c_str(), target.data(), target.size());
    REQUIRE(size > 0);
    target.resize(static_cast<std::size_t>(size));
    REQUIRE(target == expected.bytes);
    return;
  }
  case FileTree::Kind::Directory:
    break;
  }
  REQUIRE(status.st_mode == 0040555);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(path)) {
    names.insert(entry.path().filename().string());
  }
  REQUIRE(names.size() == expected.children.size());
  nlink_t links = 2;
  for (const auto& [name, child] : expected.children) {
    links += child.kind == FileTree::Kind::Directory ? 1 : 0;

    struct stat absent {};

    if (name.size() < 255 && !names.contains(name + "\x01")) {
      CHECK(::lstat((path / (name + "\x01")).c_str(), &absent) != 0);
    }
    compare(path / name, child, whose);
  }
  CHECK((whose == Whose::Copy || status.st_nlink == links));
  CHECK(status_of(path / "..").st_ino == status_of(path.parent_path()).st_ino);
}

bool have(const std::string& program) {
  if (shell("command -v " + program + " >/dev/null 2>&1") == 0) {
    return true;
  }
  if (required("erofs")) {
    FAIL(program << " is required and not installed");
  }
  WARN("skipped: " << program << " is not installed");
  return false;
}

std::string awkward_disk(std::map<std::string, FileTree>& trees) {
  trees = test::awkward_trees();
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    trees["random-" + std::to_string(seed)] = test::TreeGenerator(seed * 1000).tree();
  }
  std::map<std::string, test::SegmentBlobs> blobs;
  std::vector<std::pair<std::string, const test::SegmentBlobs*>> parts;
  for (const auto& [name, tree] : trees) {
    blobs[name] = test::segment_of(tree);
    parts.emplace_back(name, &blobs[name]);
  }
  std::reverse(parts.begin(), parts.end()); // their order must not matter
  return test::disk_of("/nix/store", parts);
}

} // namespace

TEST_CASE("composed disk: fsck.erofs extracts the same trees", "[segment][differential]") {
  if (!have("fsck.erofs")) {
    return;
  }
  const Folder folder;
  std::map<std::string, FileTree> trees;
  std::ofstream(folder.image(), std::ios::binary) << awkward_disk(trees);
  // Its exit status is 0 after some errors; they show in what it says.
  const auto log = folder.path() / "log";
  const auto check = [&](const std::string& options) {
    const int status = shell("fsck.erofs " + options + " '" + folder.image().string() + "' >'" +
                             log.string() + "' 2>&1");
    const auto said = contents_of(log);
    return status == 0 && said.find("<E>") == std::string::npos &&
           said.find("<W>") == std::string::npos;
  };
  const auto out = folder.path() / "out";
  CHECK(check("--extract='" + out.string() + "'"));
  INFO(contents_of(log));
  compare(out / "nix/store", FileTree::directory(trees), Whose::Copy);

  auto damaged = contents_of(folder.image());
  damaged[2000] = static_cast<char>(damaged[2000] ^ 1); // under the superblock's sum
  std::ofstream(folder.image(), std::ios::binary) << damaged;
  CHECK_FALSE(check(""));
}

TEST_CASE("composed disk: the kernel shows the same trees", "[segment][mount]") {
  Folder folder;
  std::map<std::string, FileTree> trees;
  std::ofstream(folder.image(), std::ios::binary) << awkward_disk(trees);
  if (!folder.mount()) {
    return;
  }
  const auto store = FileTree::directory(trees);
  compare(folder.mount_point() / "nix", FileTree::directory({{"store", store}}));
  CHECK(fs::exists(folder.mount_point() / "nix"));
  CHECK_FALSE(fs::exists(folder.mount_point() / "niy"));
}

TEST_CASE("composed disk: the kernel reads a file of more than 4 GiB", "[segment][mount]") {
  Folder folder;
  const UniqueFd image(system_call("test.open", "image", [&] {
    return ::open(folder.image().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }));
  // A data blob that is a hole but for its last block.
  constexpr std::uint64_t kSize = 4 * kGiB + 4100;

  struct Tail final : ByteSink {
    void write(ByteView bytes) override {
      total += bytes.size();
      last.append(text_of(bytes));
      last.erase(0, last.size() - std::min<std::size_t>(last.size(), 8192));
    }

    std::uint64_t total = 0;
    std::string last;
  };

  Tail data;
  test::MemoryMetadata metadata;
  segment::Writer writer(data, metadata);
  const std::string zeros(1 << 20, '\0');
  writer.directory();
  writer.entry("big");
  writer.regular(false, kSize);
  for (std::uint64_t left = kSize - 4; left > 0;) {
    const auto part = std::min<std::uint64_t>(left, zeros.size());
    writer.contents(bytes_of(zeros).first(static_cast<std::size_t>(part)));
    left -= part;
  }
  writer.contents(bytes_of("tail"));
  writer.regular_end();
  writer.directory_end();
  writer.finish();

  std::string head;
  StringSink sink(head);
  const std::vector<segment::Part> parts{{"part", metadata.bytes, data.total}};
  const auto disk = segment::compose("/nix/store", parts, sink);
  REQUIRE(::ftruncate(image.get(), static_cast<off_t>(disk.disk_bytes)) == 0);
  REQUIRE(::pwrite(image.get(), head.data(), head.size(), 0) == static_cast<ssize_t>(head.size()));
  REQUIRE(::pwrite(image.get(),
                   data.last.data(),
                   data.last.size(),
                   static_cast<off_t>(disk.disk_bytes - data.last.size())) ==
          static_cast<ssize_t>(data.last.size()));
  if (!folder.mount()) {
    return;
  }
  const auto path = folder.mount_point() / "nix/store/part/big";
  CHECK(static_cast<std::uint64_t>(status_of(path).st_size) == kSize);
  CHECK(status_of(path).st_mtime == 1);
  std::ifstream in(path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(kSize - 8));
  const std::string end{std::istreambuf_iterator<char>(in), {}};
  CHECK(end == std::string(4, '\0') + "tail");
}

TEST_CASE("composed disk: thousands of parts in one store", "[segment][mount]") {
  Folder folder;
  const auto one = test::segment_of(FileTree::directory({{"f", FileTree::file("x")}}));
  const auto file = test::segment_of(FileTree::file(std::string(3000, 'f')));
  std::vector<std::pair<std::string, const test::SegmentBlobs*>> parts;
  auto store = FileTree::directory();
  for (int i = 0; i < 3000; ++i) {
    const auto name = std::to_string(i * 7 % 3000) + "-of-many-store-paths";
    parts.emplace_back(name, i % 2 == 0 ? &one : &file);
    store.children[name] = i % 2 == 0 ? FileTree::directory({{"f", FileTree::file("x")}})
                                      : FileTree::file(std::string(3000, 'f'));
  }
  std::ofstream(folder.image(), std::ios::binary) << test::disk_of("/", parts);
  if (!folder.mount()) {
    return;
  }
  for (const auto& [name, tree] : store.children) {
    compare(folder.mount_point() / name, tree);
  }
  CHECK(status_of(folder.mount_point()).st_nlink == 1502);
}
