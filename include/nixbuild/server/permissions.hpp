#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

/// What a key may do in its account. The names are those that nixbuild.net uses.
namespace nixbuild::server {

/// `store:read`: ask about paths and fetch them. `store:write`: upload paths. `build:read`: see
/// builds and their logs. `build:write`: build, cancel. `account:write`: change keys and settings,
/// and what concerns a whole store.
using protocol::Permission;

inline constexpr std::array kAllPermissions = {Permission::StoreRead,
                                               Permission::StoreWrite,
                                               Permission::BuildRead,
                                               Permission::BuildWrite,
                                               Permission::AccountWrite};

/// `store:read`. (The protocol's own `name_of` says `StoreRead`.)
[[nodiscard]] NIXBUILD_API std::string_view permission_name(Permission permission) noexcept;

/// A set of permissions. A value.
class NIXBUILD_API Permissions {
public:
  constexpr Permissions() = default;

  constexpr Permissions(std::initializer_list<Permission> list) {
    for (const auto permission : list) {
      add(permission);
    }
  }

  [[nodiscard]] static constexpr Permissions all() {
    Permissions everything;
    for (const auto permission : kAllPermissions) {
      everything.add(permission);
    }
    return everything;
  }

  /// Names separated by blanks or commas; `store-read` is read as `store:read`. Empty or `none`: no
  /// permission. Error `permission.unknown` naming the word and what there is.
  [[nodiscard]] static Permissions parse(std::string_view text);
  /// The names, separated by blanks.
  [[nodiscard]] std::string text() const;

  constexpr void add(Permission permission) {
    bits_ = static_cast<std::uint8_t>(bits_ | bit(permission));
  }

  [[nodiscard]] constexpr bool has(Permission permission) const {
    return (bits_ & bit(permission)) != 0;
  }

  /// Error `permission.missing` (Denied) with the permission's name unless it is there. `what`
  /// begins the message: "uploading paths".
  void expect(Permission permission, std::string_view what) const;

  [[nodiscard]] constexpr std::uint8_t bits() const { return bits_; }

  /// Bits that are no permission are dropped.
  [[nodiscard]] static constexpr Permissions of_bits(std::uint8_t bits) {
    Permissions result;
    for (const auto permission : kAllPermissions) {
      if ((bits & bit(permission)) != 0) {
        result.add(permission);
      }
    }
    return result;
  }

  constexpr bool operator==(const Permissions&) const = default;

private:
  static constexpr std::uint8_t bit(Permission permission) {
    return static_cast<std::uint8_t>(1U << static_cast<unsigned>(permission));
  }

  std::uint8_t bits_ = 0;
};

} // namespace nixbuild::server
