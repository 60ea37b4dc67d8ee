#pragma once

#include <boost/asio/ip/tcp.hpp>

#include <string>
#include <vector>

namespace nixbuild::builtin {

/// The addresses of a host, by /etc/hosts and /etc/resolv.conf; an address is itself. Blocks for 60
/// s at most. By c-ares: glibc's own functions load libraries, which a machine of a build does not
/// have. Throws FetchFailure.
[[nodiscard]] std::vector<boost::asio::ip::tcp::endpoint> resolve_host(const std::string& host,
                                                                       const std::string& port);

} // namespace nixbuild::builtin
