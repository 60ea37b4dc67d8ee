#include <nixbuild/base/error.hpp>
#include <nixbuild/server/permissions.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::server {

std::string_view permission_name(Permission permission) noexcept {
  switch (permission) {
  case Permission::StoreRead:
    return "store:read";
  case Permission::StoreWrite:
    return "store:write";
  case Permission::BuildRead:
    return "build:read";
  case Permission::BuildWrite:
    return "build:write";
  case Permission::AccountWrite:
    return "account:write";
  }
  return "unknown";
}

Permissions Permissions::parse(std::string_view text) {
  constexpr std::string_view separators = " \t\n,";
  Permissions result;
  for (;;) {
    text.remove_prefix(std::min(text.find_first_not_of(separators), text.size()));
    if (text.empty()) {
      return result;
    }
    std::string word(text.substr(0, text.find_first_of(separators)));
    text.remove_prefix(word.size());
    if (word == "none") {
      continue;
    }
    std::replace(word.begin(), word.end(), '-', ':');
    const auto* found =
        std::find_if(kAllPermissions.begin(), kAllPermissions.end(), [&](Permission known) {
          return permission_name(known) == word;
        });
    if (found == kAllPermissions.end()) {
      throw Error(Reaction::Reject,
                  "permission.unknown",
                  fmt::format("'{}' is no permission; there are {}", word, all().text()));
    }
    result.add(*found);
  }
}

std::string Permissions::text() const {
  std::string result;
  for (const auto permission : kAllPermissions) {
    if (has(permission)) {
      result += (result.empty() ? "" : " ") + std::string(permission_name(permission));
    }
  }
  return result;
}

void Permissions::expect(Permission permission, std::string_view what) const {
  if (!has(permission)) {
    throw Error(Reaction::Denied,
                "permission.missing",
                fmt::format("{} needs the permission {}, which this key has not got",
                            what,
                            permission_name(permission)));
  }
}

} // namespace nixbuild::server
