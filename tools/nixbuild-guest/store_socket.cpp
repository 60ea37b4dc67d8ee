#include "store_socket.hpp"

#include "build_root.hpp"
#include "files.hpp"
#include "machine.hpp"
#include "sandbox/channel_sockets.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/sandbox/admission.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <utility>
#include <vector>

namespace nixbuild::guest {

namespace admission = sandbox::admission;

namespace {

constexpr int kBacklog = 64;

UniqueFd listen_at(const std::string& path) {
  UniqueFd socket(system_call(kCode, "a socket", [] {
    return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  }));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw Error(Reaction::Reject, kCode, "'" + path + "' is too long for a socket");
  }
  path.copy(address.sun_path, path.size());
  system_call(kCode, path, [&] {
    return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  });
  system_call(kCode, path, [&] { return ::chmod(path.c_str(), 0666); });
  system_call(kCode, path, [&] { return ::listen(socket.get(), kBacklog); });
  return socket;
}

/// One round of the relay; false at the end of the port.
bool turn(sandbox::ChannelSockets& channels, const UniqueFd& listener, UniqueFd& waiting) {
  std::vector<pollfd> entries;
  entries.push_back({waiting ? -1 : listener.get(), POLLIN, 0});
  channels.watch(entries);
  if (::poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) {
    throw_system_error(kCode, "poll");
  }
  if (!waiting && entries[0].revents != 0) {
    waiting.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
  if (!channels.move()) {
    return false;
  }
  // One that finds no free channel waits for the end of another one.
  if (waiting) {
    if (const auto channel = channels.open()) {
      channels.join(*channel, std::move(waiting));
    }
  }
  return true;
}

/// Carries conversations between the builder's clients and the host.
void relay(UniqueFd port, const UniqueFd& listener, UniqueFd receiver) {
  sandbox::ChannelSockets channels(std::move(port), sandbox::Channels::Side::Guest);
  UniqueFd waiting;
  while (turn(channels, listener, waiting)) {
    while (const auto channel = channels.next_opened()) {
      if (receiver) {
        channels.join(*channel, std::move(receiver));
      } else {
        channels.refuse(*channel);
      }
    }
  }
}

/// False at the end of the stream, which is between two paths.
bool read_exactly(int fd, MutableBytes bytes) {
  while (!bytes.empty()) {
    const auto got =
        system_call(kCode, "an admission", [&] { return ::read(fd, bytes.data(), bytes.size()); });
    if (got == 0) {
      return false;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

/// The archive's pieces, to their end, whatever becomes of them.
void take_archive(int fd, nar::Reader& reader, std::string& problem) {
  Bytes piece;
  for (;;) {
    std::array<std::uint8_t, 4> head{};
    if (!read_exactly(fd, head)) {
      throw Error(Reaction::Disconnected, "guest.host", "the host left inside an admission");
    }
    piece.resize(admission::read_length(head, admission::kMaxPiece));
    if (piece.empty()) {
      return;
    }
    if (!read_exactly(fd, piece)) {
      throw Error(Reaction::Disconnected, "guest.host", "the host left inside an admission");
    }
    try {
      if (problem.empty()) {
        reader.feed(piece);
      }
    } catch (const std::exception& error) {
      problem = error.what();
    }
  }
}

/// Unpacks beside its place, so that what has the path's name is whole.
std::string admit(int fd, int store, const std::string& name, unsigned number) {
  const auto draft = ".nixbuild-admission-" + std::to_string(number);
  std::string problem;
  sandbox::TreeUnpacker unpacker(store, draft, true);
  nar::Reader reader(unpacker);
  take_archive(fd, reader, problem);
  try {
    if (problem.empty()) {
      reader.expect_finished();
      system_call(kCode, "'" + name + "' in the store", [&] {
        return ::syscall(
            SYS_renameat2, store, draft.c_str(), store, name.c_str(), RENAME_NOREPLACE);
      });
    }
  } catch (const std::exception& error) {
    problem = error.what();
  }
  return problem.substr(0, admission::kMaxAnswer);
}

/// Puts paths into the store as the host sends them.
void receive_paths(const UniqueFd& socket, const std::string& store_path) {
  const UniqueFd store(system_call(kCode, store_path, [&] {
    return ::open(store_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }));
  std::array<std::uint8_t, 4> head{};
  for (unsigned number = 0; read_exactly(socket.get(), head); ++number) {
    Bytes name(admission::read_length(head, admission::kMaxName));
    if (!read_exactly(socket.get(), name)) {
      return;
    }
    const std::string text(text_of(name));
    if (text.empty() || text.front() == '.' || text.find('/') != std::string::npos) {
      throw Error(Reaction::Reject, "guest.host", "'" + text + "' is no name of a store path");
    }
    const auto answer = admission::counted(admit(socket.get(), store.get(), text, number));
    write_all(socket.get(), bytes_of(answer));
  }
}

/// A process that does `work` and ends.
template <class Work>
pid_t start_process(Work work) {
  const auto pid = static_cast<pid_t>(system_call(kCode, "fork", [] { return ::fork(); }));
  if (pid != 0) {
    return pid;
  }
  try {
    work();
  } catch (const std::exception& error) {
    say_to_kernel(std::string("nixbuild-guest: store socket: ") + error.what());
  }
  ::_exit(0);
}

void end_process(pid_t pid) {
  if (pid > 0) {
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

} // namespace

StoreSocket::StoreSocket(const sandbox::GuestJob& job, const std::string& root) {
  auto port = open_port("nixbuild.nix", O_RDWR | O_NONBLOCK);
  const auto listener = listen_at(root + job.build_dir + "/" + sandbox::kStoreSocket);
  auto [mine, theirs] = sandbox::socket_pair();
  const auto store = store_in(root, job);
  receiver_ = start_process([&] {
    mine.reset();
    port.reset();
    receive_paths(theirs, store);
  });
  theirs.reset();
  relay_ = start_process([&] { relay(std::move(port), listener, std::move(mine)); });
}

StoreSocket::~StoreSocket() {
  end_process(relay_);
  end_process(receiver_);
}

} // namespace nixbuild::guest
