#include "server.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <utility>

extern char** environ;

namespace nixbuild::perf {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kReadSize = 256 * kKiB;
constexpr int kDaemonEndMilliseconds = 60'000;

double peak_mib_of(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) {
      return static_cast<double>(std::stoull(line.substr(6))) / 1024;
    }
  }
  return 0;
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (auto& word : words) {
    result.push_back(word.data());
  }
  result.push_back(nullptr);
  return result;
}

/// Directories of a Nix store cannot be written; they can be removed once they can.
void remove_store(const fs::path& directory) {
  std::error_code ignored;
  if (::geteuid() != 0) {
    for (fs::recursive_directory_iterator each(directory, ignored), end; each != end;) {
      if (each->is_directory(ignored) && !each->is_symlink(ignored)) {
        fs::permissions(each->path(), fs::perms::owner_all, fs::perm_options::add, ignored);
      }
      each.increment(ignored);
    }
  }
  fs::remove_all(directory, ignored);
}

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  system_call("perf.pipe", "making a pipe", [&] { return ::pipe2(ends.data(), O_CLOEXEC); });
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

pid_t spawn(const ServerStore& store, int in, int out) {
  auto words = store.words();
  auto environment = store.environment();
  const auto arguments = pointers(words);
  const auto variables = pointers(environment);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out, 1);
  ::posix_spawn_file_actions_addopen(
      &actions, 2, store.error_file().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  ::sigaddset(&defaults, SIGPIPE);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  pid_t child = 0;
  const int error = ::posix_spawnp(
      &child, words.front().c_str(), &actions, &attributes, arguments.data(), variables.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw_system_error("perf.spawn", "starting " + words.front(), error);
  }
  return child;
}

} // namespace

double cpu_seconds_of(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  if (pid == 0 || ::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) {
    return 0;
  }
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

ServerStore::ServerStore(ServerCommand command, fs::path directory)
    : command_(std::move(command)), directory_(std::move(directory)) {
  fs::create_directories(directory_ / "etc");
  std::ofstream(directory_ / "etc" / "nix.conf")
      << "build-users-group =\nsandbox = false\nsubstituters =\n";
}

ServerStore::~ServerStore() {
  stop_daemon();
  remove_store(directory_);
}

std::vector<std::string> ServerStore::words() const {
  if (command_.kind == ServerKind::Nix) {
    return {command_.program, "--serve", "--write"};
  }
  return {command_.program, "--state-dir", (directory_ / "state").string(), "--serve", "--write"};
}

std::vector<std::string> ServerStore::environment() const {
  std::vector<std::string> result;
  for (char** each = environ; *each != nullptr; ++each) {
    if (std::strncmp(*each, "NIX", 3) != 0 && std::strncmp(*each, "HOME=", 5) != 0) {
      result.emplace_back(*each);
    }
  }
  result.push_back("HOME=" + directory_.string());
  if (command_.kind == ServerKind::Nix) {
    result.push_back("NIX_REMOTE=local?root=" + directory_.string());
    result.push_back("NIX_CONF_DIR=" + (directory_ / "etc").string());
  }
  return result;
}

pid_t ServerStore::daemon() const {
  const auto state = directory_ / "state";
  if (command_.kind == ServerKind::Nix || !fs::exists(state / "daemon.sock")) {
    return 0;
  }
  // A socket's address has room for 107 characters: the directory goes by descriptor.
  const UniqueFd directory(::open(state.c_str(), O_PATH | O_CLOEXEC));
  const UniqueFd peer(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto name = fmt::format("/proc/self/fd/{}/daemon.sock", directory.get());
  std::copy(name.begin(), name.end(), std::begin(address.sun_path));
  if (::connect(peer.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return 0;
  }
  ucred credentials{};
  socklen_t size = sizeof credentials;
  system_call("perf.daemon", "asking for the daemon's process", [&] {
    return ::getsockopt(peer.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size);
  });
  return credentials.pid;
}

void ServerStore::stop_daemon() const {
  const auto pid = daemon();
  if (pid == 0) {
    return;
  }
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) {
    return;
  }
  ::kill(pid, SIGTERM);
  pollfd ended{process.get(), POLLIN, 0};
  if (::poll(&ended, 1, kDaemonEndMilliseconds) == 0) {
    fmt::print(stderr, "the daemon of {} does not end; it is killed\n", directory_.string());
    ::kill(pid, SIGKILL);
    ::poll(&ended, 1, kDaemonEndMilliseconds);
  }
}

void ServerStore::settle() const {
  const UniqueFd directory(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  system_call(
      "perf.settle", "syncing " + directory_.string(), [&] { return ::syncfs(directory.get()); });
}

template <class Read>
auto Session::wait(Read read) {
  for (;;) {
    if (auto value = read()) {
      return std::move(*value);
    }
    fill();
  }
}

Session::Session(const ServerStore& store) : store_(store), reader_(dir_), buffer_(kReadSize) {
  auto in = make_pipe();
  auto out = make_pipe();
  ::fcntl(in.write.get(), F_SETFL, O_NONBLOCK);
  child_ = spawn(store, in.read.get(), out.write.get());
  to_ = std::move(in.write);
  from_ = std::move(out.read);
  in.read.reset();
  out.write.reset();
  std::string hello;
  protocol::serve::write_client_hello(hello);
  send(bytes_of(hello));
  version_ = wait([&] { return reader_.read_hello(); });
}

Session::~Session() {
  if (child_ != 0) {
    to_.reset();
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
}

void Session::fail(const std::string& what) const {
  std::ifstream file(store_.error_file());
  const std::string said{std::istreambuf_iterator<char>(file), {}};
  const auto from = said.size() > 2'000 ? said.size() - 2'000 : 0;
  throw Error(Reaction::Disconnected,
              "perf.session",
              fmt::format("{}: {}; it said: {}", store_.command().name, what, said.substr(from)));
}

void Session::fill() {
  const auto count = system_call("perf.read", "reading a reply", [&] {
    return ::read(from_.get(), buffer_.data(), buffer_.size());
  });
  if (count == 0) {
    fail("the server ended the connection");
  }
  reader_.feed(ByteView(buffer_).first(static_cast<std::size_t>(count)));
}

void Session::send(const protocol::serve::Request& request) {
  std::string bytes;
  protocol::serve::write_request(bytes, dir_, version_, request);
  send(bytes_of(bytes));
}

void Session::send(ByteView bytes) {
  while (!bytes.empty()) {
    const auto count = ::write(to_.get(), bytes.data(), bytes.size());
    if (count >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      std::array<pollfd, 2> ends{{{to_.get(), POLLOUT, 0}, {from_.get(), POLLIN, 0}}};
      ::poll(ends.data(), ends.size(), -1);
      if ((ends[1].revents & (POLLIN | POLLHUP)) != 0) {
        fill();
      }
    } else if (errno != EINTR) {
      fail(fmt::format("sending failed: {}", std::strerror(errno)));
    }
  }
}

void Session::send_nar(const Payload& payload) {
  for (const auto piece : payload.pieces) {
    send(piece);
  }
}

model::StorePaths Session::paths() {
  return wait([&] { return reader_.read_paths(); });
}

std::uint64_t Session::number() {
  return wait([&] { return reader_.read_number(); });
}

std::size_t Session::path_infos() {
  for (std::size_t count = 0;; ++count) {
    if (!wait([&] { return reader_.read_path_info(); })) {
      return count;
    }
  }
}

void Session::take_raw(std::uint64_t size, Hasher* hasher) {
  const auto early = static_cast<std::size_t>(std::min<std::uint64_t>(reader_.raw().size(), size));
  if (hasher != nullptr) {
    hasher->update(reader_.raw().first(early));
  }
  reader_.consume_raw(early);
  for (size -= early; size > 0;) {
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer_.size(), size));
    const auto count = system_call(
        "perf.read", "reading a NAR", [&] { return ::read(from_.get(), buffer_.data(), wanted); });
    if (count == 0) {
      fail("the server ended the connection inside a NAR");
    }
    if (hasher != nullptr) {
      hasher->update(ByteView(buffer_).first(static_cast<std::size_t>(count)));
    }
    size -= static_cast<std::uint64_t>(count);
  }
}

void Session::start_counting() {
  daemon_ = store_.daemon();
  cpu_before_ = cpu_seconds_of(child_) + cpu_seconds_of(daemon_);
  for (const auto pid : {child_, daemon_}) {
    if (pid != 0) {
      std::ofstream(fmt::format("/proc/{}/clear_refs", pid)) << "5"; // the peak starts anew
    }
  }
}

Cost Session::cost() const {
  return {cpu_seconds_of(child_) + cpu_seconds_of(daemon_) - cpu_before_,
          std::max(peak_mib_of(child_), peak_mib_of(daemon_))};
}

double Session::close() {
  to_.reset();
  int status = 0;
  rusage usage{};
  system_call(
      "perf.wait", "waiting for the server", [&] { return ::wait4(child_, &status, 0, &usage); });
  child_ = 0;
  if (status != 0) {
    fail(fmt::format("the server ended with status {}", status));
  }
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

} // namespace nixbuild::perf
