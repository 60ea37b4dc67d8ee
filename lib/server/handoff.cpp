#include <nixbuild/base/error.hpp>
#include <nixbuild/server/handoff.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace nixbuild::server {

namespace {

constexpr const char* kSocketName = "daemon.sock";
/// No exit status: those have eight bits.
constexpr std::uint32_t kAccepted = 0x61636370;

void put(std::string& out, std::uint32_t number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void put(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint32_t>(text.size()));
  out.append(text);
}

class Cursor {
public:
  explicit Cursor(std::string_view bytes) : bytes_(bytes) {}

  std::uint32_t number() {
    std::uint32_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string text() {
    const auto size = number();
    return std::string(take(size));
  }

  std::vector<std::string> texts() {
    const auto count = number();
    if (count > kHandoffStrings) {
      throw Error(
          Reaction::Reject,
          "handoff.limit",
          fmt::format("a hand-over names {} strings, more than {}", count, kHandoffStrings));
    }
    std::vector<std::string> result;
    for (std::uint32_t i = 0; i < count; ++i) {
      result.push_back(text());
    }
    return result;
  }

  [[nodiscard]] bool at_end() const noexcept { return bytes_.empty(); }

private:
  std::string_view take(std::size_t count) {
    if (count > bytes_.size()) {
      throw Error(Reaction::Reject, "handoff.malformed", "a hand-over message ends too early");
    }
    const auto result = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return result;
  }

  std::string_view bytes_;
};

std::int64_t key_number(std::string_view text) {
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) {
    throw Error(Reaction::Reject, "handoff.malformed", "a hand-over names a key that is no number");
  }
  return number;
}

/// A socket address of any depth: the directory goes by descriptor, because the address itself has
/// room for 107 characters only.
sockaddr_un address_in(const UniqueFd& directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto path = fmt::format("/proc/self/fd/{}/{}", directory.get(), kSocketName);
  std::memcpy(static_cast<char*>(address.sun_path), path.c_str(), path.size() + 1);
  return address;
}

UniqueFd open_directory(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
}

UniqueFd stream_socket() {
  return UniqueFd(system_call("daemon.socket", "making a socket", [] {
    return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  }));
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

} // namespace

std::string encode(const Handoff& handoff) {
  std::string body;
  put(body, static_cast<std::uint32_t>(handoff.kind));
  put(body, static_cast<std::uint32_t>(handoff.write ? 1 : 0));
  put(body, static_cast<std::uint32_t>(handoff.limited ? 1 : 0));
  put(body, handoff.account);
  put(body, std::to_string(handoff.key));
  put(body, static_cast<std::uint32_t>(handoff.arguments.size()));
  for (const auto& argument : handoff.arguments) {
    put(body, argument);
  }
  put(body, static_cast<std::uint32_t>(handoff.environment.size()));
  for (const auto& variable : handoff.environment) {
    put(body, variable);
  }
  return body;
}

Handoff decode_handoff(std::string_view message) {
  Cursor cursor(message);
  Handoff handoff;
  const auto kind = cursor.number();
  if (kind < 1 || kind > 3) {
    throw Error(
        Reaction::Reject, "handoff.malformed", fmt::format("unknown kind of hand-over {}", kind));
  }
  handoff.kind = static_cast<HandoffKind>(kind);
  handoff.write = cursor.number() != 0;
  handoff.limited = cursor.number() != 0;
  handoff.account = cursor.text();
  handoff.key = key_number(cursor.text());
  handoff.arguments = cursor.texts();
  handoff.environment = cursor.texts();
  if (!cursor.at_end()) {
    throw Error(Reaction::Reject, "handoff.malformed", "bytes follow a hand-over message");
  }
  return handoff;
}

std::optional<UniqueFd> connect_to_daemon(const std::string& state_dir) {
  const auto directory = open_directory(state_dir);
  if (!directory) {
    return std::nullopt;
  }
  auto socket = stream_socket();
  const auto address = address_in(directory);
  if (::connect(socket.get(), generic(address), sizeof address) != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) {
      return std::nullopt;
    }
    throw_system_error("daemon.connect", "connecting to the daemon of " + state_dir);
  }
  return socket;
}

UniqueFd listen_for_handoffs(const std::string& state_dir) {
  const auto directory = open_directory(state_dir);
  if (!directory) {
    throw_system_error("daemon.socket", "opening the state directory " + state_dir);
  }
  auto socket = stream_socket();
  const auto address = address_in(directory);
  ::unlinkat(directory.get(), kSocketName, 0);
  // Linux makes the name with the socket's own mode: no umask is changed under other threads.
  system_call("daemon.socket", "preparing a socket", [&] { return ::fchmod(socket.get(), 0600); });
  system_call("daemon.socket", "making the socket in " + state_dir, [&] {
    return ::bind(socket.get(), generic(address), sizeof address);
  });
  system_call("daemon.socket", "listening", [&] { return ::listen(socket.get(), 512); });
  return socket;
}

void send_handoff(const UniqueFd& daemon,
                  const Handoff& handoff,
                  const std::array<int, 3>& descriptors) {
  const auto body = encode(handoff);
  if (body.size() > kHandoffBytes) {
    throw Error(Reaction::Reject,
                "handoff.limit",
                fmt::format("the command and its environment have {} bytes, more than {}",
                            body.size(),
                            kHandoffBytes));
  }
  std::string message;
  put(message, static_cast<std::uint32_t>(body.size()));
  message += body;

  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof descriptors)> control{};
  iovec part{message.data(), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof descriptors);
  std::memcpy(CMSG_DATA(rights), descriptors.data(), sizeof descriptors);
  auto sent = static_cast<std::size_t>(system_call("handoff.send", "handing the session over", [&] {
    return ::sendmsg(daemon.get(), &header, MSG_NOSIGNAL);
  }));
  while (sent < message.size()) {
    sent += static_cast<std::size_t>(system_call("handoff.send", "handing the session over", [&] {
      return ::send(daemon.get(), message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    }));
  }
}

bool wait_for_acceptance(const UniqueFd& daemon) {
  std::uint32_t word = 0;
  ssize_t count = -1;
  do {
    count = ::recv(daemon.get(), &word, sizeof word, MSG_WAITALL);
  } while (count < 0 && errno == EINTR);
  return count == static_cast<ssize_t>(sizeof word) && word == kAccepted;
}

void send_acceptance(const UniqueFd& peer) noexcept {
  const std::uint32_t word = kAccepted;
  [[maybe_unused]] const auto ignored =
      ::send(peer.get(), &word, sizeof word, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int wait_for_exit_status(const UniqueFd& daemon) {
  std::uint32_t status = 0;
  const auto count = system_call("handoff.wait", "waiting for the session's end", [&] {
    return ::recv(daemon.get(), &status, sizeof status, MSG_WAITALL);
  });
  return count == static_cast<ssize_t>(sizeof status) ? static_cast<int>(status) : 70;
}

ReceivedHandoff receive_handoff(const UniqueFd& peer, int seconds) {
  const timeval limit{seconds, 0};
  ::setsockopt(peer.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ReceivedHandoff received;
  std::uint32_t size = 0;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 3)> control{};
  iovec part{&size, sizeof size};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const auto count = system_call("handoff.receive", "receiving a hand-over", [&] {
    return ::recvmsg(peer.get(), &header, MSG_CMSG_CLOEXEC | MSG_WAITALL);
  });
  std::size_t taken = 0;
  for (cmsghdr* part_header = CMSG_FIRSTHDR(&header); part_header != nullptr;
       part_header = CMSG_NXTHDR(&header, part_header)) {
    if (part_header->cmsg_level != SOL_SOCKET || part_header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t number = (part_header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < number && taken < 3; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part_header) + i * sizeof fd, sizeof fd);
      received.descriptors[taken++].reset(fd);
    }
  }
  if (count != static_cast<ssize_t>(sizeof size) || taken != 3) {
    throw Error(Reaction::Reject, "handoff.malformed", "a hand-over came without its descriptors");
  }
  if (size > kHandoffBytes) {
    throw Error(Reaction::Reject,
                "handoff.limit",
                fmt::format("a hand-over of {} bytes exceeds {}", size, kHandoffBytes));
  }
  std::string body(size, '\0');
  std::size_t have = 0;
  while (have < size) {
    const auto more = system_call("handoff.receive", "receiving a hand-over", [&] {
      return ::recv(peer.get(), body.data() + have, size - have, 0);
    });
    if (more == 0) {
      throw Error(Reaction::Reject, "handoff.malformed", "a hand-over message ends too early");
    }
    have += static_cast<std::size_t>(more);
  }
  received.handoff = decode_handoff(body);
  return received;
}

void send_exit_status(const UniqueFd& peer, int status) noexcept {
  const auto word = static_cast<std::uint32_t>(status);
  [[maybe_unused]] const auto ignored =
      ::send(peer.get(), &word, sizeof word, MSG_NOSIGNAL | MSG_DONTWAIT);
}

} // namespace nixbuild::server
