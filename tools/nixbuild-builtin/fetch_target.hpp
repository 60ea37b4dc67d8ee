#pragma once

#include "builtins.hpp"

#include <boost/url/url.hpp>

#include <string>
#include <string_view>

/// Where a request goes: its host, and the proxy before it.
namespace nixbuild::builtin {

struct Target {
  boost::urls::url url;
  std::string host; ///< decoded, without the brackets of IPv6
  std::string port;
  bool tls = false;
  std::string path;        ///< with the query: what a server is asked for
  std::string credentials; ///< `user:password` of the URL; empty: none
};

/// Characters that a URL may not have (blanks, quotes, bars) are escaped as curl does. Throws
/// FetchFailure for what is no `http` or `https` URL.
[[nodiscard]] Target parse_target(std::string_view text);
/// What `Location: text` means in an answer from `base`. Throws as parse_target.
[[nodiscard]] Target redirected(const Target& base, std::string_view text);
/// The proxy for a target by `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`; empty: none.
[[nodiscard]] std::string proxy_for(const Target& target, const Call& call);

} // namespace nixbuild::builtin
