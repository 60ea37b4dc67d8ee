#include <nixbuild/protocol/wire.hpp>

namespace nixbuild::protocol {

std::string_view name_of(Permission permission) noexcept {
  switch (permission) {
  case Permission::StoreRead:
    return "StoreRead";
  case Permission::StoreWrite:
    return "StoreWrite";
  case Permission::BuildRead:
    return "BuildRead";
  case Permission::BuildWrite:
    return "BuildWrite";
  case Permission::AccountWrite:
    return "AccountWrite";
  }
  return "?";
}

} // namespace nixbuild::protocol
