#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace nixbuild::server {

/// Where the HTTP interface listens.
struct HttpAddress {
  std::string unix_path; ///< absolute; empty: TCP
  std::string host;      ///< a numeric address
  bool version_6 = false;
  std::uint16_t port = 0; ///< 0: the system chooses one
  bool loopback = false;  ///< reaches nobody beyond this machine

  bool operator==(const HttpAddress&) const = default;
};

/// `unix:PATH`, `ADDRESS:PORT`, `[ADDRESS]:PORT`. Names of hosts are not looked up. Error
/// `http.address`.
[[nodiscard]] HttpAddress parse_http_address(std::string_view text);
/// The same form again.
[[nodiscard]] std::string print(const HttpAddress& address);

/// A listening socket; a Unix socket has the mode 0600 and takes the place of one that nobody
/// listens on any more. Puts the port that was taken into `address`. Error `http.listen`.
[[nodiscard]] UniqueFd listen_http(HttpAddress& address);

} // namespace nixbuild::server
