#include "state_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/handoff.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

namespace nixbuild::server {

namespace fs = std::filesystem;

std::string find_state_dir(const std::string& given) {
  const auto variable = [](const char* name) {
    const char* value = ::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (!given.empty()) {
    return given;
  }
  if (auto set = variable("NIXBUILD_STATE_DIR"); !set.empty()) {
    return set;
  }
  constexpr uid_t first_person = 1000;
  if (::getuid() < first_person) {
    return "/var/lib/nixbuild";
  }
  if (auto base = variable("XDG_STATE_HOME"); !base.empty()) {
    return base + "/nixbuild";
  }
  if (auto home = variable("HOME"); !home.empty()) {
    return home + "/.local/state/nixbuild";
  }
  throw Error(Reaction::NotFound,
              "state-dir.unknown",
              "no state directory: give --state-dir or set NIXBUILD_STATE_DIR");
}

std::string find_program(const std::string& name) {
  const fs::path self = fs::read_symlink("/proc/self/exe").parent_path();
  const std::vector<fs::path> places = {
      self / name,
      self.parent_path() / "libexec" / "nixbuild" / name,
      self.parent_path() / name / name,
      self.parent_path().parent_path() / "bin" / name,
  };
  std::vector<std::string> looked;
  for (const auto& place : places) {
    if (fs::is_regular_file(place)) {
      return place.string();
    }
    looked.push_back(place.string());
  }
  throw Error(
      Reaction::NotFound,
      "program.missing",
      fmt::format("the program {} is not installed; looked for {}", name, fmt::join(looked, ", ")));
}

namespace {

/// What a daemon keeps of the surroundings of the program that happened to come first. The rest is
/// of that caller's session: its agents, its folders that go with it, what its client has chosen.
std::vector<std::string> daemon_environment() {
  std::vector<std::string> variables;
  for (const char* name : {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ"}) {
    if (const char* value = ::getenv(name)) {
      variables.push_back(fmt::format("{}={}", name, value));
    }
  }
  return variables;
}

std::vector<char*> as_pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (auto& word : words) {
    pointers.push_back(word.data());
  }
  pointers.push_back(nullptr);
  return pointers;
}

/// Between fork and exec.
void close_all_from(int first) {
  if (::syscall(SYS_close_range, first, ~0U, 0) == 0) {
    return;
  }
  // Before Linux 5.9.
  const auto most = ::sysconf(_SC_OPEN_MAX);
  for (int fd = first; fd < most; ++fd) {
    ::close(fd);
  }
}

/// Whether a daemon holds the state directory, ready or not.
bool daemon_is_there(const std::string& state_dir) {
  const auto name = state_dir + "/daemon.lock";
  const UniqueFd lock(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  return lock && ::flock(lock.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

/// A daemon that somebody else has started takes the directory first and listens when all is open:
/// a large database, or one that was not closed, takes its time. Nothing when there is none, or it
/// went away, or it takes longer than anybody would wait.
std::optional<UniqueFd> wait_for_starting_daemon(const std::string& state_dir) {
  constexpr auto patience = std::chrono::seconds(60);
  constexpr auto pause = std::chrono::milliseconds(20);
  const auto until = std::chrono::steady_clock::now() + patience;
  while (daemon_is_there(state_dir) && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(pause);
    if (auto socket = connect_to_daemon(state_dir)) {
      return socket;
    }
  }
  return std::nullopt;
}

/// The daemon as a process of its own: nothing of the caller's session, folder, umask, descriptors
/// and environment, all of which would stay with it as long as it lives.
void start_daemon(const std::string& state_dir, const std::string& config_file) {
  const auto program = find_program("nixbuildd");
  const auto log_file = state_dir + "/daemon.log";
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const UniqueFd log(::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!null || !log) {
    throw_system_error("daemon.start", "opening " + log_file);
  }
  int ends[2] = {-1, -1};
  system_call("daemon.start", "making a pipe", [&] { return ::pipe2(ends, O_CLOEXEC); });
  const UniqueFd ready(ends[0]);
  UniqueFd told(ends[1]);

  // It goes to /, so nothing may be meant from here.
  std::vector<std::string> words = {
      program, "--state-dir", fs::absolute(state_dir).string(), "--autostarted", "--ready-fd", "3"};
  if (!config_file.empty()) {
    words.insert(words.end(), {"--config", fs::absolute(config_file).string()});
  }
  auto variables = daemon_environment();
  const auto argv = as_pointers(words);
  const auto envp = as_pointers(variables);
  const pid_t child = system_call("daemon.start", "starting the daemon", [] { return ::fork(); });
  if (child == 0) {
    // Twice, so that the daemon is nobody's child and no zombie is left with the front.
    ::setsid();
    if (::fork() != 0) {
      ::_exit(0);
    }
    ::dup2(null.get(), 0);
    ::dup2(log.get(), 1);
    ::dup2(log.get(), 2);
    if (told.get() == 3) {
      ::fcntl(3, F_SETFD, 0);
    } else {
      ::dup2(told.get(), 3);
    }
    close_all_from(4);
    ::umask(077);
    if (::chdir("/") == 0) {
      ::execve(program.c_str(), argv.data(), envp.data());
    }
    ::_exit(127);
  }
  told.reset();
  int status = 0;
  ::waitpid(child, &status, 0);
  char byte = 0;
  const auto count = system_call(
      "daemon.start", "waiting for the daemon", [&] { return ::read(ready.get(), &byte, 1); });
  if (count != 1) {
    throw Error(Reaction::Internal,
                "daemon.start",
                fmt::format("the daemon could not start; {} says why", log_file));
  }
}

} // namespace

UniqueFd
reach_daemon(const std::string& state_dir, const std::string& config_file, bool autostart) {
  if (auto socket = connect_to_daemon(state_dir)) {
    return std::move(*socket);
  }
  if (auto socket = wait_for_starting_daemon(state_dir)) {
    return std::move(*socket);
  }
  if (!autostart) {
    throw Error(
        Reaction::NotFound,
        "daemon.not-running",
        fmt::format("no daemon runs for {}; start nixbuildd --state-dir {}", state_dir, state_dir));
  }
  make_state_folder(state_dir);
  const auto lock_file = state_dir + "/start.lock";
  const UniqueFd lock(::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) {
    throw_system_error("daemon.start", "opening " + lock_file);
  }
  system_call("daemon.start", "locking " + lock_file, [&] { return ::flock(lock.get(), LOCK_EX); });
  if (auto socket = connect_to_daemon(state_dir)) {
    return std::move(*socket);
  }
  try {
    start_daemon(state_dir, config_file);
  } catch (const Error&) {
    // Another one may have been first, by a moment.
    if (auto socket = wait_for_starting_daemon(state_dir)) {
      return std::move(*socket);
    }
    throw;
  }
  if (auto socket = connect_to_daemon(state_dir)) {
    return std::move(*socket);
  }
  throw Error(Reaction::Internal,
              "daemon.start",
              fmt::format("the daemon ended again; {}/daemon.log says why", state_dir));
}

int run_through_daemon(const std::string& state_dir,
                       const std::string& config_file,
                       bool autostart,
                       const Handoff& handoff) {
  // A daemon that is just ending may close the connection unread: the next one gets it.
  constexpr int attempts = 3;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const auto daemon = reach_daemon(state_dir, config_file, autostart);
    try {
      send_handoff(daemon, handoff);
    } catch (const Error& error) {
      if (error.reaction() != Reaction::Disconnected) {
        throw;
      }
      continue;
    }
    if (wait_for_acceptance(daemon)) {
      return wait_for_exit_status(daemon);
    }
  }
  throw Error(Reaction::Internal,
              "daemon.lost",
              fmt::format("the daemon of {} ended before it took the session", state_dir));
}

} // namespace nixbuild::server
