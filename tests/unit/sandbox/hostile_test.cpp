#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/jail.hpp>
#include <nixbuild/sandbox/vmdk.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using nixbuild::tests::ScratchFolder;
namespace fs = std::filesystem;

// An emulator that a guest has taken over, in the jail that real ones are in: as root starts it,
// with a user of its own, and as an ordinary user does, whose files belong to the same user.
namespace {

constexpr uid_t kSlot = 700'321;
constexpr uid_t kOrdinary = 701'999;

/// What may come of each attempt; everything that is not here must not be said.
const std::map<std::string, std::set<std::string>>& answers() {
  using Words = std::set<std::string>;
  static const Words denied{"EPERM"};
  static const Words read_only{"EROFS", "EACCES"};
  static const Words absent{"ENOENT", "EACCES"};
  static const Words no_call{"ENOSYS"};
  static const Words no_socket{"EACCES"};
  static const Words not_for_writing{"EBADF"};
  static const std::map<std::string, Words> table{
      {"write-input", not_for_writing},
      {"reopen-input", read_only},
      {"reopen-input-truncating", read_only},
      {"reopen-input-appending", read_only},
      {"reopen-input-by-thread", read_only},
      {"reopen-input-by-number", read_only},
      {"reopen-input-direct", read_only},
      {"reopen-initramfs", read_only},
      {"truncate-input", {"EINVAL", "EBADF"}},
      {"truncate-input-by-path", denied},
      {"punch-input", not_for_writing},
      {"chmod-input", denied},
      {"chmod-input-by-path", denied},
      {"chown-input", denied},
      {"age-input", denied},
      {"label-input", denied},
      {"flag-input", denied},
      {"link-input", denied},
      {"map-input", {"EACCES"}},
      {"unprotect-input", {"EACCES"}},
      {"lease-input", denied},
      {"watch-input", denied},
      {"lock-input", not_for_writing},
      {"write-descriptor", {"EPERM", "EBADF"}},
      {"reopen-descriptor", {"EPERM", "EACCES"}},
      {"seek-input", {"done"}},
      {"direct-input", {"done", "EINVAL", "EPERM"}},
      {"make-file", read_only},
      {"make-file-in-dev", read_only},
      {"make-folder", denied},
      {"make-device", denied},
      {"read-users", absent},
      {"read-homes", absent},
      {"list-programs", absent},
      {"list-nix-store", absent},
      {"read-kernel-memory", absent},
      {"write-sysctl", absent},
      {"press-sysrq", absent},
      {"open-memory-device", absent},
      {"overwrite-itself", {"EROFS", "EACCES", "ETXTBSY"}},
      {"mount", denied},
      {"remount", denied},
      {"unmount", denied},
      {"copy-mount", denied},
      {"change-root", denied},
      {"pivot-root", denied},
      {"open-by-handle", denied},
      {"fork", denied},
      {"vfork", denied},
      {"clone-process", denied},
      {"clone-user", denied},
      {"clone3", no_call},
      {"execute-shell", absent},
      {"execute-by-descriptor", denied},
      {"trace", denied},
      {"read-other-memory", denied},
      {"kill-all", denied},
      {"kill-host-process", denied},
      {"hold-host-process", denied},
      {"see-host-process", absent},
      {"unshare", denied},
      {"join-namespace", denied},
      {"become-root", denied},
      {"take-capabilities", denied},
      {"internet-socket", no_socket},
      {"unix-socket", no_socket},
      {"netlink-socket", no_socket},
      {"packet-socket", no_socket},
      {"machine-socket", no_socket},
      {"bpf", denied},
      {"perf", denied},
      {"userfaultfd", no_call},
      {"io-uring", no_call},
      {"keyring", denied},
      {"load-module", denied},
      {"load-kernel", denied},
      {"reboot", denied},
      {"kernel-log", denied},
      {"set-clock", denied},
      {"set-name", denied},
      {"ports", denied},
      {"personality", denied},
      {"shared-memory", denied},
      {"memory-file", no_call},
      {"watch-files", denied},
      {"other-abi", denied},
      {"unknown-call", no_call},
      {"terminal-input", denied},
      {"more-descriptors", denied},
      {"core-files", denied},
      {"map-terabyte", {"ENOMEM"}},
      {"threads", {"bounded"}},
      {"end", {"done"}},
  };
  return table;
}

std::string contents_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

/// Everything about a file that somebody who must not write it could change.
std::string state_of(const fs::path& file) {
  struct stat status {};

  REQUIRE(::stat(file.c_str(), &status) == 0);
  std::ostringstream text;
  text << contents_of(file) << '|' << status.st_mode << '|' << status.st_uid << '|'
       << status.st_nlink << '|' << status.st_mtim.tv_sec << '.' << status.st_mtim.tv_nsec << '|'
       << status.st_ctim.tv_sec << '.' << status.st_ctim.tv_nsec << '|'
       << ::listxattr(file.c_str(), nullptr, 0);
  return text.str();
}

/// Files as a store has them, the emulator beside them, and a daemon's descriptors.
struct World {
  ScratchFolder folder;
  fs::path segment = folder.path() / "store/segment";
  fs::path initramfs = folder.path() / "kernels/initramfs";
  fs::path emulator = folder.path() / "bin/hostile-emulator";
  fs::path words = folder.path() / "words";

  explicit World(uid_t owner) {
    for (const auto& file : {segment, initramfs, emulator}) {
      fs::create_directories(file.parent_path());
    }
    std::ofstream(segment, std::ios::binary) << std::string(16384, 's');
    std::ofstream(initramfs, std::ios::binary) << std::string(8192, 'i');
    fs::copy_file(HOSTILE_EMULATOR_PATH, emulator);
    for (const auto& file : {segment, initramfs}) {
      REQUIRE(::chmod(file.c_str(), 0444) == 0);
    }
    REQUIRE(::chmod(emulator.c_str(), 0755) == 0);
    if (::geteuid() == 0) {
      for (const auto& item : fs::recursive_directory_iterator(folder.path())) {
        REQUIRE(::lchown(item.path().c_str(), owner, owner) == 0);
      }
      REQUIRE(::lchown(folder.path().c_str(), owner, owner) == 0);
      REQUIRE(::chmod(folder.path().c_str(), 0711) == 0);
    }
  }
};

struct Heard {
  std::map<std::string, std::string> answers;
  JailReport report;
  int status = 0;
};

std::map<std::string, std::string> read_answers(const fs::path& file) {
  std::map<std::string, std::string> heard;
  std::ifstream words(file);
  for (std::string name, answer; words >> name >> answer;) {
    heard[name] = answer;
  }
  return heard;
}

/// Runs the emulator to its end; throws where it does not start.
void run_hostile(const World& world, std::optional<uid_t> uid, JailReport& report, bool old_abi) {
  const UniqueFd input(::open(world.segment.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd initramfs(::open(world.initramfs.c_str(), O_RDONLY | O_CLOEXEC));
  const auto descriptor = sealed_file("a table of the disk");
  int port[2];
  system_call("test.port", "socketpair", [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, port);
  });
  const UniqueFd here(port[0]);
  const UniqueFd there(port[1]);
  const UniqueFd words(::open(world.words.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  JailSettings settings;
  settings.directory = world.folder.path();
  settings.uid = uid;
#ifndef __SANITIZE_ADDRESS__
  settings.address_space = 8 * kGiB;
#endif
  std::vector<std::string> arguments{world.emulator.string()};
  if (old_abi) {
    arguments.emplace_back("old-abi");
  } else {
    for (const int number : {input.get(),
                             initramfs.get(),
                             descriptor.get(),
                             there.get(),
                             static_cast<int>(::getpid())}) {
      arguments.push_back(std::to_string(number));
    }
  }
  const std::vector<int> keep{input.get(), initramfs.get(), descriptor.get(), there.get()};
  auto process = start_jailed(settings, arguments, keep, words.get());
  report = process.report();
  pollfd wait{process.pidfd(), POLLIN, 0};
  if (::poll(&wait, 1, 30'000) != 1) {
    throw Error(Reaction::Timeout, "test.hostile", "the hostile emulator does not end");
  }
  const int status = process.reap().wait_status;
  if (old_abi && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)) {
    throw Error(Reaction::Internal, "test.hostile", "the old calls were not answered by a signal");
  }
  // The daemon's own descriptors are as they were: no position moved, no flag set.
  if (::lseek(input.get(), 0, SEEK_CUR) != 0 || (::fcntl(input.get(), F_GETFL) & O_DIRECT) != 0) {
    throw Error(Reaction::Internal, "test.hostile", "a descriptor of the host was changed");
  }
}

/// In a process of that user, as a daemon of theirs would be.
std::string run_as(uid_t user, const World& world, JailReport& report) {
  const auto told = world.folder.path() / "told";
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::setgid(user) != 0 || ::setuid(user) != 0) {
      ::_exit(9);
    }
    ::prctl(PR_SET_DUMPABLE, 1); // else its own /proc files belong to root
    std::string trouble;
    JailReport mine;
    try {
      run_hostile(world, std::nullopt, mine, false);
      run_hostile(World(user), std::nullopt, mine, true);
    } catch (const std::exception& error) {
      trouble = error.what();
    }
    std::ofstream(told) << mine.namespaces << mine.read_only << mine.landlock << mine.syscalls
                        << "\n"
                        << trouble;
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
  const auto text = contents_of(told);
  REQUIRE(text.size() >= 5);
  report.namespaces = text[0] == '1';
  report.read_only = text[1] == '1';
  report.landlock = text[2] == '1';
  report.syscalls = text[3] == '1';
  return text.substr(5);
}

void judge_answers(const World& world, const JailReport& report) {
  const auto heard = read_answers(world.words);
  CHECK(answers().size() >= 40);
  for (const auto& [name, allowed] : answers()) {
    const auto found = heard.find(name);
    const std::string answer = found == heard.end() ? "nothing" : found->second;
    // What only the namespaces hide is there without them.
    if (!report.namespaces && !report.landlock) {
      continue;
    }
#ifdef __SANITIZE_ADDRESS__
    // Its shadow memory takes terabytes, so there the address space has no limit.
    if (name == "map-terabyte") {
      continue;
    }
#endif
    INFO(name << " was answered by " << answer);
    CHECK(allowed.contains(answer));
  }
  for (const auto& [name, answer] : heard) {
    INFO(name);
    CHECK(answers().contains(name));
  }
}

} // namespace

TEST_CASE("jail: a hostile emulator changes nothing that others use, started by root",
          "[sandbox][hostile]") {
  if (::geteuid() != 0) {
    WARN("skipped: needs root");
    return;
  }
  const World world(0);
  const auto segment = state_of(world.segment);
  const auto initramfs = state_of(world.initramfs);
  JailReport report;
  run_hostile(world, kSlot, report, false);
  CHECK(report.namespaces);
  CHECK(report.read_only);
  CHECK(report.syscalls);
  judge_answers(world, report);
  CHECK(state_of(world.segment) == segment);
  CHECK(state_of(world.initramfs) == initramfs);
  run_hostile(world, kSlot, report, true);
}

TEST_CASE("jail: a hostile emulator changes nothing that others use, started by a user",
          "[sandbox][hostile]") {
  const uid_t user = ::geteuid() == 0 ? kOrdinary : ::geteuid();
  const World world(user);
  const auto segment = state_of(world.segment);
  const auto initramfs = state_of(world.initramfs);
  JailReport report;
  CHECK(run_as(user, world, report).empty());
  CHECK(report.syscalls);
  if (!report.namespaces) {
    WARN("no user namespaces here: Landlock stands alone");
  }
  judge_answers(world, report);
  CHECK(state_of(world.segment) == segment);
  CHECK(state_of(world.initramfs) == initramfs);
}

TEST_CASE("jail: a file that has lost its name is handed over, and not to be written",
          "[sandbox][hostile]") {
  const ScratchFolder folder;
  const auto name = folder.path() / "input";
  std::ofstream(name) << "first";
  const UniqueFd input(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  for (const bool replaced : {false, true}) {
    fs::remove(name);
    if (replaced) {
      std::ofstream(name) << "second";
    }
    const auto words = folder.path() / "words";
    const UniqueFd output(::open(words.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const auto path = "/proc/$$/fd/" + std::to_string(input.get());
    const std::vector<std::string> arguments{
        "/bin/sh",
        "-c",
        "read -r line < " + path + "; echo \"$line\"; echo taken > " + path + " && echo written"};
    const std::vector<int> keep{input.get()};
    JailSettings settings;
    settings.directory = folder.path();
    auto process = start_jailed(settings, arguments, keep, output.get());
    const auto report = process.report();
    pollfd wait{process.pidfd(), POLLIN, 0};
    REQUIRE(::poll(&wait, 1, 20'000) == 1);
    process.reap();
    if (report.landlock) {
      CHECK(contents_of(words).starts_with("first\n"));
      CHECK(contents_of(words).find("written") == std::string::npos);
    } else {
      CHECK(report.shortfall.find("without names") != std::string::npos);
    }
    std::array<char, 16> held{};
    CHECK(::pread(input.get(), held.data(), held.size(), 0) == 5);
  }
}

TEST_CASE("jail: the files that a program needs are found, and no others", "[sandbox]") {
  const auto shell = program_files("/bin/sh");
  CHECK(shell.find("/bin/sh\n") != std::string::npos);
  CHECK(shell.find("libc.so.6\n") != std::string::npos);
  CHECK(shell.find("r/usr\n") == std::string::npos);
  CHECK(shell.find("x/usr\n") == std::string::npos);
  const ScratchFolder folder;
  const auto script = folder.path() / "emulator";
  std::ofstream(script) << "#!/bin/sh\n";
  CHECK(program_files(script).find("x/usr\n") != std::string::npos);
  CHECK(program_files("/does/not/exist") == "x/does/not/exist\n");
}
