#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/model/path_info.hpp>

#include <fmt/format.h>

namespace nixbuild::model {

std::string fingerprint(const StoreDir& dir, const PathInfo& info) {
  std::string out =
      fmt::format("1;{};{};{};", dir.print(info.path), hash_nix32(info.nar_hash), info.nar_size);
  bool first = true;
  for (const auto& reference : info.references) {
    if (!first) {
      out += ',';
    }
    first = false;
    out += dir.print(reference);
  }
  return out;
}

} // namespace nixbuild::model
