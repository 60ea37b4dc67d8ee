#pragma once

#include <nixbuild/base/digest.hpp>

#include <compare>
#include <cstddef>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::model {

/// The base name of a store path: 32 characters of Nix base 32, a dash, and a name of 1 to 211
/// characters out of `[0-9a-zA-Z+-._?=]` that is not `.` or `..` and does not start with `.-` or
/// `..-`. Always valid. Ordered by bytes. Source: protocol facts 4.3.
class NIXBUILD_API StorePath {
public:
  static constexpr std::size_t kHashLength = 32;
  static constexpr std::size_t kNameLimit = 211;

  /// Errors: `store-path.hash`, `store-path.name` (each names the path and the limit).
  [[nodiscard]] static StorePath parse(std::string_view base_name);
  /// From a 20-byte digest and a name; errors as `parse`.
  StorePath(ByteView digest20, std::string_view name);

  [[nodiscard]] const std::string& base_name() const noexcept { return base_name_; }

  [[nodiscard]] std::string_view hash_part() const noexcept {
    return std::string_view(base_name_).substr(0, kHashLength);
  }

  [[nodiscard]] std::string_view name() const noexcept {
    return std::string_view(base_name_).substr(kHashLength + 1);
  }

  /// The name ends in `.drv`.
  [[nodiscard]] bool is_derivation() const noexcept;

  auto operator<=>(const StorePath&) const = default;

private:
  explicit StorePath(std::string base_name) : base_name_(std::move(base_name)) {}

  std::string base_name_;
};

using StorePaths = std::vector<StorePath>;
using StorePathSet = std::set<StorePath>;

/// Sorts and drops duplicates.
NIXBUILD_API void sort_unique(StorePaths& paths);

/// The logical store directory, a part of every path's identity.
class NIXBUILD_API StoreDir {
public:
  /// `dir` is absolute, without a trailing slash, at most 4,000 bytes. Error: `store-dir.invalid`.
  explicit StoreDir(std::string dir = "/nix/store");

  [[nodiscard]] const std::string& text() const noexcept { return dir_; }

  /// `<dir>/<base name>`.
  [[nodiscard]] std::string print(const StorePath& path) const;
  /// Reads a full path that lies directly in the directory. Errors: `store-path.outside`, and those
  /// of StorePath::parse.
  [[nodiscard]] StorePath parse(std::string_view full_path) const;

  bool operator==(const StoreDir&) const = default;

private:
  std::string dir_;
};

/// 20 bytes: `digest` folded by exclusive or. Source: protocol facts 4.2.
[[nodiscard]] NIXBUILD_API Bytes compress_hash(ByteView digest, std::size_t size = 20);

/// The store path of `<type>:sha256:<hex of inner>:<store dir>:<name>`. `type` already contains its
/// references (`text:/nix/store/…`). Source: protocol facts 4.3.
[[nodiscard]] NIXBUILD_API StorePath make_store_path(const StoreDir& dir,
                                                     std::string_view type,
                                                     const Hash& inner,
                                                     std::string_view name);

/// Path of a text object (`.drv`, toFile). `references` sorted and unique.
[[nodiscard]] NIXBUILD_API StorePath make_text_path(const StoreDir& dir,
                                                    std::string_view name,
                                                    const Hash& contents_sha256,
                                                    const StorePaths& references);

} // namespace nixbuild::model

template <>
struct std::hash<nixbuild::model::StorePath> {
  std::size_t operator()(const nixbuild::model::StorePath& path) const noexcept {
    return std::hash<std::string_view>{}(path.base_name());
  }
};
