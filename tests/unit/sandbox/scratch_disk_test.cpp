#include "executor_rig.hpp"
#include "sandbox/runner/scratch_disk.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/scratch_room.hpp>

#include <catch2/catch.hpp>
#include <sys/stat.h>

#include <fstream>

namespace scratch_disk_test {

using namespace nixbuild;
using namespace nixbuild::sandbox;
using namespace nixbuild::tests;
namespace fs = std::filesystem;

namespace {

/// Size of the scratch disk while the guest of a build is silent; 0: there is none.
aio::Task<std::uint64_t> size_while_running(Executor& executor, ExecutionPlan plan, fs::path file) {
  const auto execution = co_await executor.start(std::move(plan));
  std::error_code missing;
  const auto size = fs::file_size(file, missing);
  if (!missing) {
    std::ifstream disk(file, std::ios::binary);
    disk.seekg(1024 + 0x38);
    CHECK(disk.get() == 0x53); // ext4's magic number
    CHECK(disk.get() == 0xef);

    struct stat info {};

    REQUIRE(::stat(file.c_str(), &info) == 0);
    CHECK(info.st_blocks * 512 < 4 * 1024 * 1024);
    CHECK((info.st_mode & 077) == 0);
  }
  execution->cancel();
  co_return missing ? 0 : size;
}

} // namespace

TEST_CASE("scratch disk: a sparse file in the run folder, gone with the machine", "[sandbox]") {
  const ScratchFolder folder;
  boost::asio::io_context io;
  auto settings = fake_settings(folder, "silent");
  REQUIRE_FALSE(find_disk_maker().empty());
  for (const bool wanted : {true, false}) {
    const auto executor = make_qemu_executor(io.get_executor(), settings);
    CHECK(executor->offers_disk());
    auto plan = small_plan(folder, {"first"});
    plan.scratch_bytes = wanted ? 300 * kMiB : 0;
    const auto file = folder.path() / "run" / plan.id / "scratch";
    const auto size = run_on(io, size_while_running(*executor, std::move(plan), file));
    CHECK(size == (wanted ? 300 * kMiB : 0));
    CHECK(eventually([&] { return !fs::exists(file.parent_path()); }));
  }
}

TEST_CASE("scratch disk: without mke2fs there is none, and one that fails is named", "[sandbox]") {
  const ScratchFolder folder;
  boost::asio::io_context io;
  auto settings = fake_settings(folder, "silent");
  settings.disk_maker = folder.path() / "missing";
  auto plan = small_plan(folder, {"first"});
  plan.scratch_bytes = kGiB;
  {
    const auto executor = make_qemu_executor(io.get_executor(), settings);
    CHECK_FALSE(executor->offers_disk());
    const auto file = folder.path() / "run" / plan.id / "scratch";
    CHECK(run_on(io, size_while_running(*executor, std::move(plan), file)) == 0);
    CHECK(eventually([&] { return !fs::exists(file.parent_path()); }));
  }
  settings.disk_maker = "/bin/false";
  const auto executor = make_qemu_executor(io.get_executor(), settings);
  plan = small_plan(folder, {"first"});
  plan.scratch_bytes = kGiB;
  try {
    run_on(io, size_while_running(*executor, std::move(plan), folder.path() / "nowhere"));
    FAIL("a machine started");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.spawn");
    CHECK(error.message().find("/bin/false made no file system") != std::string::npos);
  }
}

TEST_CASE("scratch disk: no larger than half of what the host has left", "[sandbox]") {
  CHECK(scratch_size(64 * kGiB, 1000 * kGiB) == 64 * kGiB);
  CHECK(scratch_size(64 * kGiB, 41 * kGiB) == 20 * kGiB);
  CHECK(scratch_size(64 * kGiB, kGiB + 3) == 256 * kMiB);
  CHECK(scratch_size(64 * kGiB, 0) == 256 * kMiB);
  CHECK(scratch_size(300 * kMiB + 5, 1000 * kGiB) == 300 * kMiB);
  CHECK(scratch_size(0, 1000 * kGiB) == 0);
}

TEST_CASE("scratch disk: what machines may soon write counts, up to a GiB each", "[sandbox]") {
  const ScratchFolder folder;
  CHECK(scratch_to_come(folder.path() / "missing") == 0);
  for (const auto& [name, size] : {std::pair("1-1", 64 * kGiB), std::pair("2-1", 300 * kMiB)}) {
    fs::create_directory(folder.path() / name);
    std::ofstream(folder.path() / name / "scratch") << "";
    fs::resize_file(folder.path() / name / "scratch", size);
  }
  fs::create_directory(folder.path() / ".slots");
  CHECK(scratch_to_come(folder.path()) == kGiB + 300 * kMiB);
  std::ofstream(folder.path() / "2-1/scratch", std::ios::in) << std::string(10 * kMiB, 'x');
  CHECK(scratch_to_come(folder.path()) <= kGiB + 290 * kMiB);
}

TEST_CASE("scratch disk: on a full host those go first that have written most", "[sandbox]") {
  CHECK(runner::must_make_room(100 * kMiB, 0));
  CHECK_FALSE(runner::must_make_room(150 * kMiB, 100 * kMiB));
  CHECK(runner::must_make_room(150 * kMiB, kGiB));
  CHECK(runner::must_make_room(kGiB, 20 * kGiB));
  CHECK_FALSE(runner::must_make_room(2 * kGiB, 20 * kGiB));
}

} // namespace scratch_disk_test
