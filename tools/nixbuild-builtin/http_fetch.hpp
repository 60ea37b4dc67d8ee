#pragma once

#include "builtins.hpp"

#include <nixbuild/base/bytes.hpp>

#include <chrono>
#include <cstdint>
#include <string>

namespace nixbuild::builtin {

/// A try that failed. `again`: another one may have more luck.
struct FetchFailure {
  std::string message;
  bool again = true;
};

/// Sends what an `http` or `https` URL names, or a `file` URL in the store, to `body`, following up
/// to 10 redirects, by the proxies, credentials and certificates of `call.settings`. Blocks: 60 s
/// at most until a server is connected, 300 s without a byte. Returns the number of bytes. Throws
/// FetchFailure; the errors of `body` pass.
std::uint64_t fetch_once(const std::string& url, const Call& call, ByteSink& body);

} // namespace nixbuild::builtin
