// What a fetch makes of the texts it is given by derivations and servers: URLs, redirects and proxy
// lists lead to what can be said in a request, one line each, and mean the same when they are read
// again; credentials of a netrc file are words of it. The first byte chooses the reader.

#include "nixbuild-builtin/fetch_target.hpp"
#include "nixbuild-builtin/http_fetch.hpp"
#include "nixbuild-builtin/netrc.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

using namespace nixbuild::builtin;

namespace {

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

bool is_plain(std::string_view text) {
  return std::all_of(
      text.begin(), text.end(), [](unsigned char c) { return c > 0x20 && c != 0x7f; });
}

void check_target(const Target& target) {
  require(!target.host.empty() && is_plain(target.host));
  require(target.path.starts_with('/') && is_plain(target.path));
  require(is_plain(std::string(target.url.encoded_host())));
  require(std::all_of(
      target.port.begin(), target.port.end(), [](char c) { return c >= '0' && c <= '9'; }));
  const auto again = parse_target(std::string_view(target.url.buffer()));
  require(again.host == target.host && again.port == target.port && again.tls == target.tls);
  require(again.path == target.path && again.credentials == target.credentials);
}

/// The text up to a line feed, and what follows.
std::pair<std::string, std::string> cut(std::string_view text) {
  const auto end = std::min(text.find('\n'), text.size());
  return {std::string(text.substr(0, end)),
          std::string(text.substr(std::min(end + 1, text.size())))};
}

void read(unsigned kind, std::string_view text) {
  if (kind == 0) {
    check_target(parse_target(text));
  } else if (kind == 1) {
    const auto [base, reference] = cut(text);
    check_target(redirected(parse_target(base), reference));
  } else if (kind == 2) {
    const auto [url, list] = cut(text);
    const auto target = parse_target(url);
    Call call;
    call.settings = {{"http_proxy", "http://proxy"}, {"https_proxy", "http://proxy"}};
    require(proxy_for(target, call) == "http://proxy");
    call.settings["no_proxy"] = list + " *";
    require(proxy_for(target, call).empty());
    call.settings["no_proxy"] = list;
    const auto proxy = proxy_for(target, call);
    require(proxy.empty() || proxy == "http://proxy");
  } else {
    const auto [host, netrc] = cut(text);
    const auto found = credentials_for(host, netrc);
    require(!found || found->find(':') != std::string::npos);
    require(!found || found->find_first_of(" \t\r\n") == std::string::npos);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    read(data[0] % 4U, text);
  } catch (const FetchFailure&) {
    // Refused, with a reason.
  }
  return 0;
}
