#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/jail.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using nixbuild::tests::ScratchFolder;
namespace fs = std::filesystem;

namespace {

constexpr uid_t kUid = 700'123;

struct Run {
  int status = 0;
  std::string output;
  JailReport report;
};

Run run_jailed(JailSettings settings, const std::string& script, std::span<const int> keep = {}) {
  const auto output = settings.directory / "output";
  const UniqueFd file(::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  const std::array<std::string, 3> arguments{"/bin/sh", "-c", script};
  auto process = start_jailed(settings, arguments, keep, file.get());
  Run run;
  run.report = process.report();
  pollfd wait{process.pidfd(), POLLIN, 0};
  REQUIRE(::poll(&wait, 1, 20'000) == 1);
  run.status = process.reap().wait_status;
  std::ostringstream text;
  text << std::ifstream(output).rdbuf();
  run.output = text.str();
  return run;
}

JailSettings settings_in(const ScratchFolder& folder) {
  JailSettings settings;
  settings.directory = folder.path();
  if (::geteuid() == 0) {
    settings.uid = kUid;
  }
  return settings;
}

std::set<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

} // namespace

TEST_CASE("jail: a machine's own disk stays open for writing, and cannot be opened anew",
          "[sandbox]") {
  const ScratchFolder folder;
  const auto name = folder.path() / "scratch";
  const UniqueFd disk(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::array<int, 1> keep{disk.get()};
  const auto number = std::to_string(disk.get());
  auto settings = settings_in(folder);
  const auto put = "echo written >&" + number;
  auto run = run_jailed(settings, put, keep);
  if (!run.report.read_only) {
    WARN("skipped: " << run.report.shortfall);
    return;
  }
  CHECK(WEXITSTATUS(run.status) != 0); // handed over as every other file
  settings.writable = {disk.get()};
  run = run_jailed(settings, put + " && echo again >/proc/self/fd/" + number, keep);
  CHECK(WEXITSTATUS(run.status) != 0);
  std::ostringstream text;
  text << std::ifstream(name).rdbuf();
  CHECK(text.str() == "written\n");
}

TEST_CASE("jail: nothing but the program's own files is there to see", "[sandbox]") {
  const ScratchFolder folder;
  const auto run =
      run_jailed(settings_in(folder),
                 "for path in / /bin/sh /dev/null /proc /boot /etc/passwd /home "
                 "/nix/store /root /run /sys /tmp /usr/bin/env /usr/include /usr/share/doc "
                 "/usr/local /var; do [ -e $path ] && echo $path; done; echo > /file");
  if (!run.report.namespaces) {
    WARN("skipped: " << run.report.shortfall);
    return;
  }
  CHECK(WEXITSTATUS(run.status) != 0); // the root is read-only
  CHECK(run.output.starts_with("/\n/bin/sh\n/dev/null\n/proc\n/bin/sh: "));
}

TEST_CASE("jail: no privilege, no way to get one, a user of its own", "[sandbox]") {
  const ScratchFolder folder;
  const auto run = run_jailed(settings_in(folder),
                              "while IFS= read -r line; do echo \"$line\"; done < /proc/$$/status; "
                              "echo pid $$; ulimit -c");
  const auto has = [&](const std::string& text) {
    return run.output.find(text) != std::string::npos;
  };
  INFO(run.output);
  CHECK(has("CapInh:\t0000000000000000"));
  CHECK(has("CapPrm:\t0000000000000000"));
  CHECK(has("CapEff:\t0000000000000000"));
  CHECK(has("CapAmb:\t0000000000000000"));
  CHECK(has("NoNewPrivs:\t1"));
  CHECK(has("Seccomp:\t2"));
  if (run.report.namespaces || ::geteuid() == 0) {
    CHECK(has("CapBnd:\t0000000000000000"));
  }
  if (::geteuid() == 0) {
    CHECK(has("Uid:\t700123\t700123\t700123\t700123"));
    CHECK(has("Gid:\t700123\t700123\t700123\t700123"));
    CHECK(has("Groups:\t \n"));
    CHECK(run.report.own_uid);
  }
  if (run.report.namespaces) {
    CHECK(has("pid 1\n"));
  }
  CHECK(run.output.ends_with("0\n"));
}

TEST_CASE("jail: only the descriptors of the list are open", "[sandbox]") {
  const ScratchFolder folder;
  const UniqueFd kept(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const UniqueFd not_kept(::open("/etc/passwd", O_RDONLY)); // not even close-on-exec
  const UniqueFd high(::fcntl(kept.get(), F_DUPFD_CLOEXEC, 200));
  const std::array<int, 2> keep{kept.get(), high.get()};
  // The shell expands before it opens anything of its own.
  const auto run = run_jailed(settings_in(folder), "echo /proc/$$/fd/*", keep);
  std::set<std::string> expected;
  for (const int fd : {0, 1, 2, kept.get(), high.get()}) {
    expected.insert("/proc/" + std::string(run.report.namespaces ? "1" : "x") + "/fd/" +
                    std::to_string(fd));
  }
  if (run.report.namespaces) {
    auto seen = words(run.output);
    // The folder that the expansion reads is the lowest free number.
    int lowest = 3;
    while (expected.contains("/proc/1/fd/" + std::to_string(lowest))) {
      ++lowest;
    }
    seen.erase("/proc/1/fd/" + std::to_string(lowest));
    CHECK(seen == expected);
  }
}

TEST_CASE("jail: there is no network but an unconnected loopback", "[sandbox]") {
  const ScratchFolder folder;
  const auto run = run_jailed(
      settings_in(folder), "while IFS= read -r line; do echo \"$line\"; done < /proc/$$/net/dev");
  if (!run.report.namespaces) {
    WARN("skipped: " << run.report.shortfall);
    return;
  }
  CHECK(run.output.find("eth") == std::string::npos);
  CHECK(run.output.find("ens") == std::string::npos);
}

TEST_CASE("jail: a program that does not exist is reported, nothing is left", "[sandbox][reject]") {
  const ScratchFolder folder;
  const std::array<std::string, 1> arguments{"/does/not/exist"};
  const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  try {
    (void)start_jailed(settings_in(folder), arguments, {}, null.get());
    FAIL("started");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.spawn");
    CHECK(error.message().find("starting the emulator") != std::string::npos);
  }
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
}

TEST_CASE("jail: destroying the process kills it", "[sandbox]") {
  const ScratchFolder folder;
  const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  const std::array<std::string, 3> arguments{"/bin/sh", "-c", "while :; do :; done"};
  pid_t pid = 0;
  {
    const auto process = start_jailed(settings_in(folder), arguments, {}, null.get());
    pid = process.pid();
    CHECK(::kill(pid, 0) == 0);
  }
  CHECK(::kill(pid, 0) != 0);
  CHECK_FALSE(fs::exists(folder.path() / "root"));
}
