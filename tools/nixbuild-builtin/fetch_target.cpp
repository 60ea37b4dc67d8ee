#include "fetch_target.hpp"

#include "http_fetch.hpp"

#include <boost/url/parse.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <sstream>

namespace nixbuild::builtin {

namespace urls = boost::urls;

namespace {

/// Bytes that no URL has, though many are written with them.
std::string escaped(std::string_view text) {
  constexpr std::string_view refused = " \"<>\\^`{|}";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte >= 0x7f || refused.find(c) != std::string_view::npos) {
      result += fmt::format("%{:02X}", byte);
    } else {
      result += c;
    }
  }
  return result;
}

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  throw FetchFailure{fmt::format("'{}' {}", text, why), false};
}

Target target_of(urls::url url, std::string_view text) {
  Target target;
  const bool plain = url.scheme_id() == urls::scheme::http;
  target.tls = url.scheme_id() == urls::scheme::https;
  if (!plain && !target.tls) {
    refuse(text, "is no http, https or file URL: this builder fetches no others");
  }
  target.host = url.host_address();
  // Escaped bytes are written out here; names are told to resolvers as C strings.
  const bool odd = std::any_of(target.host.begin(), target.host.end(), [](unsigned char c) {
    return c <= 0x20 || c == 0x7f;
  });
  if (target.host.empty() || odd) {
    refuse(text, "names no host");
  }
  target.port = url.has_port() ? std::string(url.port()) : target.tls ? "443" : "80";
  if (url.has_userinfo()) {
    target.credentials = url.user() + ":" + url.password();
  }
  target.path = std::string(url.encoded_path());
  if (!target.path.starts_with('/')) {
    target.path.insert(0, 1, '/');
  }
  if (url.has_query()) {
    target.path += "?" + std::string(url.encoded_query());
  }
  target.url = std::move(url);
  return target;
}

/// Whether `host` is the name `entry` of a `no_proxy` list or lies below it.
bool covers(std::string_view entry, std::string_view host) {
  while (entry.starts_with('.')) {
    entry.remove_prefix(1);
  }
  if (entry == "*" || entry == host) {
    return true;
  }
  return !entry.empty() && host.size() > entry.size() && host.ends_with(entry) &&
         host[host.size() - entry.size() - 1] == '.';
}

} // namespace

Target parse_target(std::string_view text) {
  const auto whole = escaped(text);
  const auto parsed = urls::parse_uri(whole);
  if (!parsed) {
    refuse(text, "is no URL");
  }
  return target_of(urls::url(*parsed), text);
}

Target redirected(const Target& base, std::string_view text) {
  const auto reference = escaped(text);
  const auto parsed = urls::parse_uri_reference(reference);
  urls::url whole;
  if (!parsed || urls::resolve(base.url, *parsed, whole).has_error()) {
    refuse(text, "is no URL to be redirected to");
  }
  return target_of(std::move(whole), text);
}

std::string proxy_for(const Target& target, const Call& call) {
  std::string list = call.setting("no_proxy");
  std::replace(list.begin(), list.end(), ',', ' ');
  std::istringstream entries(list);
  std::string entry;
  while (entries >> entry) {
    if (covers(entry, target.host)) {
      return {};
    }
  }
  const auto own = call.setting(target.tls ? "https_proxy" : "http_proxy");
  return own.empty() ? call.setting("all_proxy") : own;
}

} // namespace nixbuild::builtin
