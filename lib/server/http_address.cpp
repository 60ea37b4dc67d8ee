#include "http_address.hpp"

#include "admin_text.hpp"

#include <nixbuild/base/error.hpp>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

namespace nixbuild::server {

namespace {

constexpr int kBacklog = 128;
constexpr std::string_view kUnix = "unix:";

[[noreturn]] void reject(std::string_view text, std::string_view what) {
  throw Error(Reaction::Reject,
              "http.address",
              fmt::format("http.listen '{}': {}", printable(text.substr(0, 200)), what));
}

bool is_loopback(const in_addr& address) {
  constexpr std::uint32_t network = 127;
  return ntohl(address.s_addr) >> 24U == network;
}

bool is_loopback(const in6_addr& address) {
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    in_addr inner{};
    std::memcpy(&inner, &address.s6_addr[12], sizeof inner);
    return is_loopback(inner);
  }
  return IN6_IS_ADDR_LOOPBACK(&address);
}

std::uint16_t parse_port(std::string_view text, std::string_view port) {
  std::uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (port.empty() || error != std::errc() || end != port.data() + port.size()) {
    reject(text, "the port must be a number from 0 to 65535");
  }
  return number;
}

HttpAddress parse_unix(std::string_view text) {
  HttpAddress address;
  address.unix_path = text.substr(kUnix.size());
  address.loopback = true;
  if (!address.unix_path.starts_with('/') || address.unix_path.ends_with('/') ||
      address.unix_path.find('\0') != std::string::npos) {
    reject(text, "the path must be absolute");
  }
  if (address.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
    reject(text,
           fmt::format("the path has {} bytes, more than {}",
                       address.unix_path.size(),
                       sizeof(sockaddr_un::sun_path) - 1));
  }
  return address;
}

const sockaddr* generic(const void* address) {
  return static_cast<const sockaddr*>(address);
}

UniqueFd make_socket(int family) {
  return UniqueFd(system_call("http.listen", "making a socket", [&] {
    return ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  }));
}

/// Takes a socket away that a daemon left behind; one that somebody listens on stays.
void remove_stale(const sockaddr_un& address) {
  struct stat status {};

  if (::lstat(address.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) {
    return;
  }
  const auto probe = make_socket(AF_UNIX);
  if (::connect(probe.get(), generic(&address), sizeof address) != 0 && errno == ECONNREFUSED) {
    ::unlink(address.sun_path);
  }
}

UniqueFd listen_unix(const HttpAddress& wanted) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  wanted.unix_path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
  remove_stale(address);
  auto socket = make_socket(AF_UNIX);
  // Linux makes the name with the socket's own mode: no umask is changed under other threads.
  system_call("http.listen", "preparing a socket", [&] { return ::fchmod(socket.get(), 0600); });
  system_call("http.listen", "listening on " + print(wanted), [&] {
    return ::bind(socket.get(), generic(&address), sizeof address);
  });
  return socket;
}

UniqueFd listen_tcp(HttpAddress& wanted) {
  auto socket = make_socket(wanted.version_6 ? AF_INET6 : AF_INET);
  const auto set = [&](int level, int option) {
    const int on = 1;
    system_call("http.listen", "preparing a socket", [&] {
      return ::setsockopt(socket.get(), level, option, &on, sizeof on);
    });
  };
  set(SOL_SOCKET, SO_REUSEADDR);
  const auto bind_to = [&](auto& address, auto& port) {
    system_call("http.listen", "listening on " + print(wanted), [&] {
      return ::bind(socket.get(), generic(&address), sizeof address);
    });
    socklen_t size = sizeof address;
    void* place = &address;
    system_call("http.listen", "asking for the port", [&] {
      return ::getsockname(socket.get(), static_cast<sockaddr*>(place), &size);
    });
    wanted.port = ntohs(port);
  };
  if (wanted.version_6) {
    set(IPPROTO_IPV6, IPV6_V6ONLY);
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(wanted.port);
    ::inet_pton(AF_INET6, wanted.host.c_str(), &address.sin6_addr);
    bind_to(address, address.sin6_port);
  } else {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(wanted.port);
    ::inet_pton(AF_INET, wanted.host.c_str(), &address.sin_addr);
    bind_to(address, address.sin_port);
  }
  return socket;
}

} // namespace

HttpAddress parse_http_address(std::string_view text) {
  if (text.starts_with(kUnix)) {
    return parse_unix(text);
  }
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    reject(text, "must be unix:PATH, ADDRESS:PORT or [ADDRESS]:PORT");
  }
  HttpAddress address;
  auto host = text.substr(0, colon);
  address.port = parse_port(text, text.substr(colon + 1));
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    address.version_6 = true;
  }
  address.host = host;
  in_addr four{};
  in6_addr six{};
  if (address.version_6 ? ::inet_pton(AF_INET6, address.host.c_str(), &six) != 1
                        : ::inet_pton(AF_INET, address.host.c_str(), &four) != 1) {
    reject(text, "the address must be a numeric one: 127.0.0.1:PORT or [::1]:PORT");
  }
  address.loopback = address.version_6 ? is_loopback(six) : is_loopback(four);
  return address;
}

std::string print(const HttpAddress& address) {
  if (!address.unix_path.empty()) {
    return std::string(kUnix) + address.unix_path;
  }
  return address.version_6 ? fmt::format("[{}]:{}", address.host, address.port)
                           : fmt::format("{}:{}", address.host, address.port);
}

UniqueFd listen_http(HttpAddress& address) {
  auto socket = address.unix_path.empty() ? listen_tcp(address) : listen_unix(address);
  system_call("http.listen", "listening on " + print(address), [&] {
    return ::listen(socket.get(), kBacklog);
  });
  return socket;
}

} // namespace nixbuild::server
