#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/vmdk.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace vmdk_test {

using namespace nixbuild;
using namespace nixbuild::sandbox;
using nixbuild::tests::ScratchFolder;

namespace {

void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string read_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

DiskExtent
extent_of(const std::filesystem::path& file, std::uint64_t offset, std::uint64_t length) {
  return {UniqueFd(::open(file.c_str(), O_RDONLY | O_CLOEXEC)), offset, length};
}

/// Bytes that tell their place: every sector is different.
std::string pattern(std::size_t blocks, unsigned seed) {
  std::string text;
  for (std::size_t i = 0; i < blocks * 4096 / 16; ++i) {
    char line[17];
    std::snprintf(line, sizeof line, "%05u:%09zu\n", seed, i);
    text += line;
  }
  return text;
}

bool have_qemu_img() {
  return std::system("qemu-img --version >/dev/null 2>&1") == 0;
}

} // namespace

TEST_CASE("vmdk: a descriptor has one line an extent and no blank line", "[sandbox][golden]") {
  const std::vector<VmdkExtent> extents{{"/dev/fdset/2", 0, 8192}, {"/dev/fdset/3", 4096, 512}};
  CHECK(vmdk_descriptor(extents) == "# Disk DescriptorFile\n"
                                    "version=1\n"
                                    "CID=fffffffe\n"
                                    "parentCID=ffffffff\n"
                                    "createType=\"twoGbMaxExtentFlat\"\n"
                                    "# Extent description\n"
                                    "RW 16 FLAT \"/dev/fdset/2\" 0\n"
                                    "RW 1 FLAT \"/dev/fdset/3\" 8\n");
}

TEST_CASE("vmdk: what a descriptor cannot say is refused", "[sandbox][reject]") {
  const auto refuse = [](VmdkExtent extent) {
    const std::vector<VmdkExtent> extents{std::move(extent)};
    CHECK_THROWS_AS(vmdk_descriptor(extents), Error);
  };
  refuse({"/x", 0, 0});
  refuse({"/x", 0, 100});
  refuse({"/x", 7, 512});
  refuse({"/x\"y", 0, 512});
  refuse({"/x\ny", 0, 512});
  refuse({"", 0, 512});
  refuse({std::string(600, 'x'), 0, 512});
  CHECK_THROWS_AS(vmdk_descriptor({}), Error);
}

TEST_CASE("vmdk: plans with holes in them are refused", "[sandbox][reject]") {
  const ScratchFolder folder;
  write_text(folder.path() / "data", pattern(2, 1));
  const auto refuse = [&](std::uint64_t offset, std::uint64_t length) {
    std::vector<DiskExtent> plan;
    plan.push_back(extent_of(folder.path() / "data", offset, length));
    try {
      (void)map_disk(std::move(plan), folder.path());
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == "sandbox.disk");
    }
  };
  refuse(0, 0);
  refuse(0, 100);
  refuse(100, 4096);
  refuse(4096, 8192);
  refuse(0, std::uint64_t{1} << 60);
  CHECK_THROWS_AS(map_disk({}, folder.path()), Error);
}

TEST_CASE("vmdk: a small plan is taken as it is", "[sandbox]") {
  const ScratchFolder folder;
  write_text(folder.path() / "data", pattern(2, 1));
  std::vector<DiskExtent> plan;
  plan.push_back(extent_of(folder.path() / "data", 4096, 4096));
  const auto disk = map_disk(std::move(plan), folder.path());
  CHECK(disk.extents.size() == 1);
  CHECK(disk.packed_bytes == 0);
}

TEST_CASE("vmdk: QEMU reads a disk of 300 extents as their concatenation", "[sandbox]") {
  if (!have_qemu_img()) {
    WARN("skipped: no qemu-img");
    return;
  }
  const ScratchFolder folder;
  std::string expected;
  std::vector<DiskExtent> plan;
  for (unsigned i = 0; i < 300; ++i) {
    const auto file = folder.path() / std::to_string(i);
    const auto text = pattern(1 + i % 3, i);
    const std::uint64_t offset = i % 3 == 0 ? 0 : 4096;
    write_text(file, text);
    plan.push_back(extent_of(file, offset, text.size() - offset));
    expected += text.substr(offset);
  }
  const auto disk = map_disk(std::move(plan), folder.path());
  REQUIRE(disk.extents.size() == kMaxExtents);
  CHECK(disk.packed_bytes > 0);

  std::vector<VmdkExtent> lines;
  for (const auto& extent : disk.extents) {
    lines.push_back(
        {"/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(extent.fd.get()),
         extent.offset,
         extent.length});
  }
  const auto descriptor = sealed_file(vmdk_descriptor(lines));
  CHECK((::fcntl(descriptor.get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
  const auto out = folder.path() / "out";
  const auto command = "qemu-img convert -f vmdk -O raw /proc/" + std::to_string(::getpid()) +
                       "/fd/" + std::to_string(descriptor.get()) + " " + out.string();
  REQUIRE(std::system(command.c_str()) == 0);
  CHECK((read_text(out) == expected));
}

} // namespace vmdk_test
