#include "sandbox/wall_notes.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/sandbox/cgroup.hpp>
#include <nixbuild/sandbox/jail.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using nixbuild::tests::ScratchFolder;
namespace fs = std::filesystem;

namespace {

std::string text_at(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

void put_at(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

/// Folders and files that stand for a hierarchy in which this process is in /system/unit.
class PaperGroups {
public:
  PaperGroups() {
    put_at(proc() / "self/cgroup", "1:name=systemd:/x\n0::/system/unit\n");
    put_at(proc() / "self/mountinfo",
           "30 23 0:28 / / rw - ext4 disk rw\n31 23 0:29 / " +
               (folder_.path() / "groups").string() + " rw,relatime - cgroup2 cgroup2 rw\n");
    group(unit(), "cpuset cpu memory pids", std::to_string(::getpid()));
    // The kernel makes these beside the folder.
    put_at(unit() / "daemon/cgroup.procs", "");
  }

  static void group(const fs::path& at, const std::string& controllers, const std::string& procs) {
    put_at(at / "cgroup.controllers", controllers + "\n");
    put_at(at / "cgroup.subtree_control", "");
    put_at(at / "cgroup.type", "domain\n");
    put_at(at / "cgroup.procs", procs + "\n");
  }

  [[nodiscard]] fs::path proc() const { return folder_.path() / "proc"; }

  [[nodiscard]] fs::path unit() const { return folder_.path() / "groups/system/unit"; }

  [[nodiscard]] fs::path root() const { return folder_.path() / "groups"; }

private:
  ScratchFolder folder_;
};

bool says(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

class HeardLog final : public Log {
public:
  void write(LogLevel, std::string_view message) noexcept override {
    lines += std::string(message) + "\n";
  }

  std::string lines;
};

} // namespace

TEST_CASE("cgroup: a group of the service's own is taken apart for machines", "[sandbox]") {
  const PaperGroups paper;
  const auto examined = examine_cgroups("auto", paper.proc());
  CHECK(examined.parent == paper.unit());
  CHECK(text_at(paper.unit() / "daemon/cgroup.procs").empty()); // nothing was done
  const auto home = prepare_cgroups("auto", paper.proc());
  CHECK(home.parent == paper.unit());
  CHECK(home.left);
  CHECK(home.shortfall.empty());
  CHECK(text_at(paper.unit() / "daemon/cgroup.procs") == std::to_string(::getpid()));
  CHECK_FALSE(text_at(paper.unit() / "cgroup.subtree_control").empty());
}

TEST_CASE("cgroup: a leaf that the service manager made stays where it is", "[sandbox]") {
  const PaperGroups paper;
  put_at(paper.proc() / "self/cgroup", "0::/system/unit/daemon\n");
  PaperGroups::group(paper.unit(), "cpu memory pids", "");
  const auto home = prepare_cgroups("auto", paper.proc());
  CHECK(home.parent == paper.unit());
  CHECK_FALSE(home.left);
}

TEST_CASE("cgroup: what cannot be had is said", "[sandbox][reject]") {
  const PaperGroups paper;
  SECTION("a group with strangers in it") {
    put_at(paper.unit() / "cgroup.procs", std::to_string(::getpid()) + "\n1\n");
    const auto home = prepare_cgroups("auto", paper.proc());
    CHECK(home.parent.empty());
    CHECK(says(home.shortfall, "holds 1 processes beside this one"));
    CHECK(text_at(paper.unit() / "daemon/cgroup.procs").empty());
  }
  SECTION("a group without a controller") {
    PaperGroups::group(paper.unit(), "cpu pids", std::to_string(::getpid()));
    const auto home = prepare_cgroups("auto", paper.proc());
    CHECK(home.parent == paper.unit());
    CHECK(says(home.shortfall, "no limit of memory"));
    CHECK_FALSE(says(home.shortfall, "no limit of cpu"));
  }
  SECTION("no cgroup v2") {
    put_at(paper.proc() / "self/mountinfo", "30 23 0:28 / / rw - ext4 disk rw\n");
    CHECK(says(prepare_cgroups("auto", paper.proc()).shortfall, "cgroup v2 is not mounted"));
  }
  SECTION("a group that is not delegated") {
    fs::remove(paper.unit() / "cgroup.subtree_control");
    CHECK(says(prepare_cgroups("auto", paper.proc()).shortfall, "is not delegated"));
  }
  SECTION("a folder that is none") {
    CHECK(says(prepare_cgroups("/does/not/exist", paper.proc()).shortfall, "cannot be used"));
  }
  SECTION("none wanted") {
    CHECK(says(prepare_cgroups("none", paper.proc()).shortfall, "is \"none\""));
  }
}

TEST_CASE("cgroup: the root of all keeps its processes", "[sandbox]") {
  const PaperGroups paper;
  put_at(paper.proc() / "self/cgroup", "0::/\n");
  PaperGroups::group(paper.root(), "cpu memory pids", "1\n2");
  fs::remove(paper.root() / "cgroup.type");
  const auto home = prepare_cgroups("auto", paper.proc());
  CHECK(home.parent == paper.root());
  CHECK_FALSE(home.left);
}

TEST_CASE("cgroup: a machine's limits are written, and what fails is told", "[sandbox]") {
  const ScratchFolder folder;
  const auto group = folder.path() / "build-1";
  for (const auto* file :
       {"memory.max", "memory.swap.max", "cpu.max", "pids.max", "cgroup.procs"}) {
    put_at(group / file, "");
  }
  const CgroupLimits limits{512 * kMiB, 3, 200};
  {
    MachineCgroup machine(group, limits);
    CHECK(machine.shortfall().empty());
    CHECK(machine.limits_memory());
    CHECK(text_at(group / "memory.max") == "536870912");
    CHECK(text_at(group / "memory.swap.max") == "0");
    CHECK(text_at(group / "cpu.max") == "300000 100000");
    CHECK(text_at(group / "pids.max") == "200");
    CHECK(machine.add(4711));
    CHECK(text_at(group / "cgroup.procs") == "4711");
    CHECK_FALSE(machine.ran_out_of_memory());
    put_at(group / "memory.events", "low 0\nmax 12\noom 1\noom_kill 1\n");
    CHECK(machine.ran_out_of_memory());
  }
  fs::remove_all(group);
  MachineCgroup bare(group, limits); // an ordinary folder: not one file is there
  CHECK_FALSE(bare.limits_memory());
  CHECK(says(bare.shortfall(), "no limit of memory: memory.max: No such file or directory"));
  CHECK(says(bare.shortfall(), "no limit of cpu"));
  CHECK(says(bare.shortfall(), "no limit of processes"));
  CHECK_FALSE(bare.add(4711));
  CHECK(says(bare.shortfall(), "no control group"));
  CHECK_FALSE(fs::exists(group));
  const MachineCgroup nowhere(folder.path() / "none/build-1", limits);
  CHECK(says(nowhere.shortfall(), "no control group"));
}

TEST_CASE("cgroup: in a real one a machine's processes end with it", "[sandbox]") {
  const auto home = examine_cgroups("auto");
  if (home.parent.empty()) {
    WARN("skipped: " << home.shortfall);
    return;
  }
  const auto name = home.parent / ("nixbuild-test-" + std::to_string(::getpid()));
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) {
      ::pause();
    }
  }
  {
    MachineCgroup machine(name, {});
    CHECK(machine.add(child));
    CHECK(text_at(name / "cgroup.procs") == std::to_string(child) + "\n");
  }
  CHECK_FALSE(fs::exists(name));
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(WTERMSIG(status) == SIGKILL);
}

TEST_CASE("cgroup: an emulator that eats memory is ended by its group", "[sandbox][hostile]") {
  const auto home = prepare_cgroups("auto");
  if (home.parent.empty()) {
    WARN("skipped: " << home.shortfall);
    return;
  }
  MachineCgroup group(home.parent / ("nixbuild-test-" + std::to_string(::getpid())),
                      {64 * kMiB, 1, 16});
  if (!group.limits_memory()) {
    WARN("skipped: " << group.shortfall());
    return;
  }
  CHECK(group.shortfall().empty());
  const ScratchFolder folder;
  JailSettings settings;
  settings.directory = folder.path();
  settings.cgroup = &group;
  const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  const std::vector<std::string> eater{
      "/bin/sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"};
  auto process = start_jailed(settings, eater, {}, null.get());
  CHECK(process.report().cgroup);
  pollfd wait{process.pidfd(), POLLIN, 0};
  REQUIRE(::poll(&wait, 1, 60'000) == 1);
  const int status = process.reap().wait_status;
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGKILL);
  CHECK(group.ran_out_of_memory());
}

TEST_CASE("walls: what machines lack is counted, logged when it changes, and kept", "[sandbox]") {
  const ScratchFolder folder;
  HeardLog log;
  CHECK_FALSE(walls_of_last_machine(folder.path()));
  WallNotes notes(folder.path(), "", &log);
  notes.note("namespaces, a user of its own", "");
  CHECK(log.lines.empty());
  notes.note("namespaces", "no user; ");
  notes.note("namespaces", "no user; ");
  CHECK(log.lines == "machines of builds are less walled in than they could be: no user\n");
  CHECK(notes.report().machines == 3);
  CHECK(notes.report().weaker == 2);
  const auto kept = walls_of_last_machine(folder.path());
  REQUIRE(kept);
  CHECK(kept->walls == "namespaces");
  CHECK(kept->shortfall == "no user");
  notes.note("namespaces, a user of its own", "");
  CHECK(says(log.lines, "have all their walls"));
  WallNotes always(folder.path(), "no control group: none; ", &log);
  always.note("namespaces", "");
  CHECK(always.report().weaker == 1);
  CHECK(walls_of_last_machine(folder.path())->shortfall == "no control group: none");
}
