#pragma once

#include <nixbuild/base/digest.hpp>
#include <nixbuild/model/store_path.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nixbuild::model {

/// What is known of one valid store path.
struct PathInfo {
  StorePath path;
  std::optional<StorePath> deriver;
  Hash nar_hash; ///< always SHA-256
  std::uint64_t nar_size = 0;
  StorePaths references;               ///< sorted, unique; contains `path` for a self reference
  std::int64_t registration_time = 0;  ///< seconds since 1970
  bool ultimate = false;               ///< built here
  std::vector<std::string> signatures; ///< `keyname:base64`
  std::string content_address;         ///< empty: input-addressed or unknown

  bool operator==(const PathInfo&) const = default;
};

/// The text that signatures sign. Source: protocol facts 4.9.
[[nodiscard]] NIXBUILD_API std::string fingerprint(const StoreDir& dir, const PathInfo& info);

} // namespace nixbuild::model
